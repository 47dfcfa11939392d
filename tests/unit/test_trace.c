/* Readers of traces: each format as its publisher writes it, and every way in which a file can be
 * something else. Samples are written by hand in the documented formats. */
#include "unit/trace_fixture.h"

#include <errno.h>
#include <math.h>

/* --- Azure LLM inference --- */

static void test_azure_llm(void **state)
{
    (void)state;
    struct trace_options o = defaults();
    struct trace t = parse("TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
                           "2023-11-16 18:15:46.6805900,374,44\r\n"
                           "2023-11-16 18:15:50.9951690,396,109\r\n"
                           "2023-11-16 18:16:00,7,0",
                           &o);
    assert_string_equal(t.name, "azure-llm");
    assert_int_equal(t.count, 3);
    assert_int_equal(t.functions, 1);
    is_request(&t, 0, 0, 0, 374, 44);
    is_request(&t, 1, 4314579, 0, 396, 109);
    is_request(&t, 2, 13319410, 0, 7, 1); /* nothing generated: one at least is asked for */
    assert_int_equal(t.span_us, 13319410);
    trace_free(&t);
    assert_null(t.requests);
}

/* The 2024 files tell the zone; other writers quote, reorder and pad. */
static void test_azure_llm_variants(void **state)
{
    (void)state;
    struct trace_options o = defaults();
    struct trace t = parse("\xef\xbb\xbf\"GeneratedTokens\", contexttokens ,extra,TIMESTAMP\n"
                           "\n"
                           "5,6,\"a, \"\"b\"\"\",2024-02-28T23:59:59.5+00:00\n"
                           "7.0,8,,2024-02-29T01:00:00.000000000001+01:00\n"
                           "   \n"
                           "\"9\",10,,2024-03-01 00:00:00Z\n",
                           &o);
    is_request(&t, 0, 0, 0, 6, 5);
    is_request(&t, 1, 500000, 0, 8, 7);
    is_request(&t, 2, 86400500000, 0, 10, 9);
    trace_free(&t);
}

static void test_calendar(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to;
        uint64_t seconds;
    } spans[] = {
        {"1999-12-31 23:59:59", "2000-01-01 00:00:00", 1},
        {"2000-02-28 00:00:00", "2000-03-01 00:00:00", 2 * 86400},
        {"2023-02-28 00:00:00", "2023-03-01 00:00:00", 86400},
        {"2099-12-31 00:00:00", "2100-03-01 00:00:00", 60 * 86400},
        {"2019-01-01 00:00:00", "2024-01-01 00:00:00", (5 * 365 + 1) * 86400},
        {"2024-05-10 00:00:00-02:30", "2024-05-10 02:30:01+00:00", 1},
    };
    struct trace_options o = defaults();
    for (size_t i = 0; i < sizeof spans / sizeof spans[0]; i++) {
        char text[256];
        snprintf(text, sizeof text, LLM "%s,1,1\n%s,2,2\n", spans[i].from, spans[i].to);
        struct trace t = parse(text, &o);
        is_request(&t, 1, spans[i].seconds * 1000000, 0, 2, 2);
        trace_free(&t);
    }
}

static void test_azure_llm_refusals(void **state)
{
    (void)state;
    static const char *const times[] = {"",
                                        "yesterday",
                                        "2023-11-16",
                                        "2023-11-16 18:15",
                                        "2023-13-16 18:15:46",
                                        "2023-00-16 18:15:46",
                                        "2023-11-31x18:15:46",
                                        "2023-11-32 18:15:46",
                                        "2023-02-29 18:15:46",
                                        "2100-02-29 18:15:46",
                                        "2023-11-16 24:15:46",
                                        "2023-11-16 18:60:46",
                                        "2023-11-16 18:15:60",
                                        "2023-11-16 18:15:46.",
                                        "2023-11-16 18:15:46.1234567890123",
                                        "2023-11-16 18:15:46 UTC",
                                        "2023-11-16 18:15:46+1:00",
                                        "2023-11-16 18:15:46+99:00",
                                        "2023-11-16 18:15:46+01:00x",
                                        "1970-01-01 00:00:00",
                                        "-023-11-16 18:15:46",
                                        "1700158546"};
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++) {
        char text[256];
        snprintf(text, sizeof text, LLM "%s,1,1\n", times[i]);
        refuse(text, "sample.csv:2:|TIMESTAMP is|2023-11-16 18:15:46.6805900");
    }
    refuse(LLM, "sample.csv holds no requests");
    refuse(LLM "2023-11-16 18:15:46,1\n", "sample.csv:2:|2 columns|3");
    refuse(LLM "2023-11-16 18:15:46,1,1\n2023-11-16 18:15", "sample.csv:3:|cut off");
    refuse(LLM "2023-11-16 18:15:46,1,2,3\n", "sample.csv:2:|4 columns");
    refuse(LLM "2023-11-16 18:15:46,-1,2\n", "ContextTokens is -1|negative");
    refuse(LLM "2023-11-16 18:15:46,1.5,2\n", "ContextTokens is \"1.5\"|whole");
    refuse(LLM "2023-11-16 18:15:46,,2\n", "ContextTokens is \"\"|whole");
    refuse(LLM "2023-11-16 18:15:46,1,0x10\n", "GeneratedTokens is \"0x10\"|whole");
    refuse(LLM "2023-11-16 18:15:46,1,1e3\n", "GeneratedTokens is \"1e3\"|whole");
    refuse(LLM "2023-11-16 18:15:46,1,NaN\n", "whole");
    refuse(LLM "2023-11-16 18:15:46,10000001,1\n", "10000001|at most 10000000");
    refuse(LLM "2023-11-16 18:15:46,99999999999999999999999999,1\n", "at most 10000000");
    refuse(LLM "2023-11-16 18:15:46,\"1,1\n", "quote");
    refuse(LLM "\"2023-11-16 18:15:46\"x,1,1\n", "quote");
    refuse("TIMESTAMP,ContextTokens\n2023-11-16 18:15:46,1\n", "\"GeneratedTokens\"");
    refuse(LLM "2023-11-16 18:15:46,1,1\n2035-11-16 18:15:46,1,1\n", "sample.csv:3:|ten years");
}

/* --- order --- */

static void test_small_disorder_is_sorted(void **state)
{
    (void)state;
    struct trace_options o = defaults();
    struct trace t = parse(LLM "2023-11-16 10:00:01.0,1,1\n"
                               "2023-11-16 10:00:00.2,2,2\n"
                               "2023-11-16 10:00:03.0,3,3\n"
                               "2023-11-16 10:00:02.0,4,4\n",
                           &o);
    is_request(&t, 0, 0, 0, 2, 2); /* the trace begins with the earliest */
    is_request(&t, 1, 800000, 0, 1, 1);
    is_request(&t, 2, 1800000, 0, 4, 4);
    is_request(&t, 3, 2800000, 0, 3, 3);
    trace_free(&t);
    refuse(LLM "2023-11-16 10:00:03.0,1,1\n2023-11-16 10:00:01.9,2,2\n",
           "sample.csv:3:|1.100 s before|sort");
    refuse(LLM "2023-11-16 10:00:03,1,1\n2023-11-15 10:00:01,2,2\n", "sample.csv:3:|sort");
}

/* --- BurstGPT --- */

static void test_burstgpt(void **state)
{
    (void)state;
    struct trace_options o = defaults();
    o.functions = 2;
    struct trace t = parse(BURST "5,ChatGPT,472,18,490,Conversation log\n"
                                 "45,ChatGPT,1087,230,1317,Conversation log\n"
                                 "46,GPT-4,417,0,417,API log\n"
                                 "118.5,GPT-4,1360,647,2007,API log\n",
                           &o);
    assert_string_equal(t.name, "burstgpt");
    assert_int_equal(t.count, 3); /* what failed is left out */
    is_request(&t, 0, 0, 0, 472, 18);
    is_request(&t, 1, 40000000, 1, 1087, 230);
    is_request(&t, 2, 113500000, 0, 1360, 647);
    trace_free(&t);
}

static void test_burstgpt_sessions(void **state)
{
    (void)state;
    static const char text[] =
        BURST_SESSIONS "19440110.0,1722ac82,43,GPT-4,906,446,1352,Conversation log\n"
                       "19440161.0,d5983bf9,2,ChatGPT,36,29,65,Conversation log\n"
                       "19440162.0,,1,ChatGPT,36,29,65,API log\n"
                       "19440192.0,1722ac82,5,GPT-4,50,60,110,Conversation log\n"
                       "19440193.0,d5983bf9,5,GPT-4,50,60,110,Conversation log\n"
                       "19440194.0,,1,ChatGPT,36,29,65,API log\n";
    struct trace_options o = defaults();
    o.functions = 1000;
    o.spread = TRACE_SPREAD_SESSION;
    struct trace t = parse(text, &o);
    assert_int_equal(t.count, 6);
    assert_int_equal(t.requests[1].at_us, 51000000); /* its clock begins long before */
    assert_int_equal(t.requests[0].function, t.requests[3].function);
    assert_int_equal(t.requests[1].function, t.requests[4].function);
    assert_int_not_equal(t.requests[0].function, t.requests[1].function);
    assert_int_equal(t.requests[2].function, 2); /* of no session: in turns */
    assert_int_equal(t.requests[5].function, 5);
    trace_free(&t);
    refuse_bytes(BURST "5,ChatGPT,472,18,490,Conversation log\n", strlen(BURST) + 37, &o,
                 "Session ID");
}

static void test_burstgpt_refusals(void **state)
{
    (void)state;
    refuse(BURST "-5,ChatGPT,472,18,490,x\n", "sample.csv:2:|Timestamp is -5|negative");
    refuse(BURST "x,ChatGPT,472,18,490,x\n", "Timestamp is \"x\"|seconds");
    refuse(BURST ",ChatGPT,472,18,490,x\n", "Timestamp is \"\"");
    refuse(BURST "nan,ChatGPT,472,18,490,x\n", "Timestamp is \"nan\"");
    refuse(BURST "inf,ChatGPT,472,18,490,x\n", "Timestamp is \"inf\"");
    refuse(BURST "1e300,ChatGPT,472,18,490,x\n", "ten years");
    refuse(BURST "1e999,ChatGPT,472,18,490,x\n", "ten years");
    refuse(BURST "1.2.3,ChatGPT,472,18,490,x\n", "Timestamp is \"1.2.3\"");
    refuse(BURST "1700000000,ChatGPT,472,18,490,x\n", "ten years|unit");
    refuse(BURST "5,ChatGPT,472,x,490,x\n", "Response tokens is \"x\"");
    refuse(BURST "5,ChatGPT,472,0,472,x\n", "holds no requests");
    refuse("Timestamp,Model,Request tokens,Total tokens\n1,m,2,3\n", "\"Response tokens\"");
    refuse("Model,Request tokens,Response tokens\nm,2,3\n", "\"Timestamp\"");
}

/* --- Mooncake, SwarmLoRA --- */

static void test_mooncake(void **state)
{
    (void)state;
    struct trace_options o = defaults();
    struct trace t = parse(
        "{\"timestamp\": 27000, \"input_length\": 6955, \"output_length\": 52, \"hash_ids\": [46, "
        "47, 48]}\n"
        "{\"timestamp\": 30000, \"input_length\": 6472, \"output_length\": 26, \"hash_ids\": []}\n"
        "{\"output_length\": 26.0, \"timestamp\": 30001, \"input_length\": 10}",
        &o);
    assert_string_equal(t.name, "mooncake");
    is_request(&t, 0, 0, 0, 6955, 52);
    is_request(&t, 1, 3000000, 0, 6472, 26);
    is_request(&t, 2, 3001000, 0, 10, 26);
    trace_free(&t);
}

static void test_swarmlora(void **state)
{
    (void)state;
    struct trace_options o = defaults();
    o.functions = 3; /* of no meaning here: the format names its own */
    o.spread = TRACE_SPREAD_SESSION;
    struct trace t = parse(
        "{\"timestamp\":0.0,\"adapter_id\":5,\"input_text\":\"give me \\\"it\\\" "
        "\\u2019\",\"input_tokens\":8,\"output_tokens\":274}\n"
        "{\"timestamp\":2.404208604,\"adapter_id\":1,\"input_text\":\"Okay\",\"input_tokens\":9,"
        "\"output_tokens\":224}\n"
        "{\"timestamp\":4.5,\"adapter_id\":5,\"input_tokens\":34,\"output_tokens\":574}\n"
        "{\"timestamp\":5,\"adapter_id\":\"lora-7\",\"input_tokens\":34,\"output_tokens\":574}\n",
        &o);
    assert_string_equal(t.name, "swarmlora");
    assert_int_equal(t.functions, 3);
    is_request(&t, 0, 0, 0, 8, 274);
    is_request(&t, 1, 2404209, 1, 9, 224);
    is_request(&t, 2, 4500000, 0, 34, 574);
    is_request(&t, 3, 5000000, 2, 34, 574);
    trace_free(&t);
}

static void test_jsonl_refusals(void **state)
{
    (void)state;
    refuse(MOON("-1", "1", "1"), "sample.csv:1:|\"timestamp\"|negative");
    refuse(MOON("1e18", "1", "1"), "ten years");
    refuse(MOON("\"0\"", "1", "1"), "\"timestamp\" is no number");
    refuse(MOON("0", "-1", "1"), "\"input_length\" is -1");
    refuse(MOON("0", "1.5", "1"), "\"input_length\" is 1.5|whole");
    refuse(MOON("0", "1", "null"), "\"output_length\" is no number");
    refuse(MOON("0", "1", "1e9"), "\"output_length\" is 1e+09");
    refuse(MOON("0", "1", "1e999"), "malformed");
    refuse(MOON("0", "1", "01"), "malformed|column");
    refuse(MOON("5000", "1", "1") MOON("3000", "1", "1"), "sample.csv:2:|sort");
    refuse(MOON("0", "1", "1") "{\"timestamp\": 1, \"output_length\": 2}\n",
           "sample.csv:2:|no \"input_length\"");
    refuse(MOON("0", "1", "1") "{\"timestamp\": 0, \"input_le", "sample.csv:2:|malformed");
    refuse(MOON("0", "1", "1") "[1]\n", "sample.csv:2:|object");
    refuse(MOON("0", "1", "1") "7\n", "sample.csv:2:");
    refuse("{\"timestamp\": 0, \"timestamp\": 1, \"input_length\": 1, \"output_length\": 1}\n",
           "malformed|duplicate");
    refuse("{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 1} x\n", "malformed");
    refuse("{\"a\": 1}\n", "no known trace");
    refuse("[" MOON("0", "1", "1") "]", "sample.csv:1:|jq");
    refuse("[]", "jq");
    refuse(SWARM("0", "1.5", "1", "1"), "\"adapter_id\"");
    refuse(SWARM("0", "null", "1", "1"), "\"adapter_id\"");
    refuse(SWARM("0", "1", "1", "1") "{\"timestamp\":0,\"input_tokens\":1,\"output_tokens\":1}\n",
           "sample.csv:2:|\"adapter_id\"");
    refuse("{\"hash_ids\":[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]],\"input_length\":1}\n", "deeper");
}

/* --- Azure functions, 2021 --- */

static void test_azure_2021(void **state)
{
    (void)state;
    struct trace_options o = defaults();
    o.prompt = draw_length_fixed(50);
    o.answer = draw_length_fixed(20);
    struct trace t = parse(F2021 "7342,313c,5160.142570018768,0.134\n"
                                 "17c3,c9f8,5161.28,0.013\n"
                                 "7fa0,9bc8,5241.5,85\n" /* ends late, arrived first */
                                 "17c3,313c,5162,1e-1\n" /* func is of its app */
                                 "17c3,c9f8,5163,0\n",
                           &o);
    assert_string_equal(t.name, "azure-functions-2021");
    assert_int_equal(t.count, 5);
    assert_int_equal(t.functions, 4);
    is_request(&t, 0, 0, 0, 50, 20);
    is_request(&t, 1, 3508570, 1, 50, 20);
    is_request(&t, 2, 4767000, 2, 50, 20);
    is_request(&t, 3, 5400000, 3, 50, 20);
    is_request(&t, 4, 6500000, 2, 50, 20);
    trace_free(&t);
    /* What began before the clock did. */
    t = parse(F2021 "a,b,10,70\na,b,20,1\n", &o);
    is_request(&t, 1, 79000000, 0, 50, 20);
    trace_free(&t);
}

static void test_azure_2021_refusals(void **state)
{
    (void)state;
    char text[2048];
    refuse(F2021 "a,b,-1,1\n", "sample.csv:2:|end_timestamp|negative");
    refuse(F2021 "a,b,1,-1\n", "sample.csv:2:|duration|negative");
    refuse(F2021 "a,b,1,\n", "duration is \"\"");
    refuse(F2021 "a,b,1e12,1\n", "ten years");
    refuse(F2021 "a,b,1,1e12\n", "ten years");
    refuse("app,func,end_timestamp\na,b,1\n", "\"duration\"");
    snprintf(text, sizeof text, F2021 "%01000d,b,1,1\n", 1);
    refuse(text, "more than");
}

/* --- Azure functions, 2019 --- */

static void test_azure_2019(void **state)
{
    (void)state;
    struct trace_options o = defaults();
    struct trace t = parse(F2019 "o1,a1,f1,http,0,3,0,1\n"
                                 "o1,a1,f2,timer,0,0,0,0\n"
                                 "o1,a2,f1,queue,2,0,0,1000\n"
                                 "o1,a1,f1,event,1,0,0,0\n", /* a function's second trigger */
                           &o);
    assert_string_equal(t.name, "azure-functions-2019");
    assert_int_equal(t.count, 1007);
    assert_int_equal(t.functions, 2);
    size_t in_minute[4] = {0};
    double sum_s = 0;
    for (size_t i = 0; i < t.count; i++) {
        uint64_t minute = t.requests[i].at_us / 60000000;
        assert_true(minute < 4);
        in_minute[minute]++;
        if (minute == 3)
            sum_s += (double)(t.requests[i].at_us - 180000000) / 1e6;
    }
    assert_int_equal(in_minute[0], 3);
    assert_int_equal(in_minute[1], 3);
    assert_int_equal(in_minute[2], 0);
    assert_int_equal(in_minute[3], 1001);
    assert_true(fabs(sum_s / 1001 - 30) < 3); /* evenly over the minute */
    trace_free(&t);
}

static void test_azure_2019_refusals(void **state)
{
    (void)state;
    refuse("HashOwner,HashApp,HashFunction,Trigger,1,2,4\n",
           "sample.csv:1:|minute 3|without a gap");
    refuse("HashOwner,HashApp,HashFunction,Trigger,1,2,2\n", "minute 3");
    refuse("HashApp,HashFunction,Trigger,1,2\n", "\"HashOwner\"");
    refuse("HashOwner,HashApp,HashFunction,Trigger\n", "no known trace");
    refuse(F2019 "o,a,f,http,1,2,3\n", "sample.csv:2:|7 columns");
    refuse(F2019 "o,a,f,http,1,-2,3,4\n", "minute 2 is -2");
    refuse(F2019 "o,a,f,http,1,2,x,4\n", "minute 3 is \"x\"");
    refuse(F2019 "o,a,f,http,1,2,0.5,4\n", "minute 3 is \"0.5\"");
    refuse(F2019 "o,a,f,http,1,2,999999999,4\n", "at most 100000000");
    refuse(F2019 "o,a,f,http,1,2,90000000,4\n", "more than 8388608 requests");
    refuse(F2019 "o,a,f,http,0,0,0,0\n", "holds no requests");
}

/* --- files that are none --- */

static void test_no_text(void **state)
{
    (void)state;
    struct trace_options o = defaults();
    refuse("", "sample.csv is empty");
    refuse("\n\n  \n", "sample.csv is empty");
    refuse("hello\nworld\n", "sample.csv:1:|no known trace");
    refuse("a,b,c\n1,2,3\n", "no known trace");
    refuse("\x1f\x8b\x08 rest", "gzip");
    refuse("Rar!\x1a\x07", "rar");
    refuse("PK\x03\x04", "zip");
    refuse("\xff\xfeT", "UTF-16");
    refuse(LLM "2023-11-16 18:15:46,1,\xff\n", "sample.csv:2:|byte 23|UTF-8");
    refuse(LLM "\xed\xa0\x80,1,1\n", "UTF-8");
    refuse(LLM "\xc0\xaf,1,1\n", "UTF-8");
    refuse(LLM "\xf4\x90\x80\x80,1,1\n", "UTF-8");
    refuse(LLM "caf\xc3", "UTF-8");
    refuse_bytes(LLM "2023-11-16\0 18:15:46,1,1\n", strlen(LLM) + 26, &o, "byte 11 is 0");
    refuse(LLM "\xe2\x82\xac,1,1\n", "TIMESTAMP is \"???\""); /* valid, but no time */
    struct trace t;
    struct error err = {0};
    assert_int_equal(trace_read("/nowhere/at/all.csv", &o, &t, &err), -ENOENT);
    assert_non_null(strstr(err.text, "/nowhere/at/all.csv"));
    assert_true(trace_read("/", &o, &t, &err) < 0);
    assert_non_null(strstr(err.text, "cannot read /"));
}

/* A line without an end costs its limit and no more. */
static void test_endless_lines(void **state)
{
    (void)state;
    struct trace_options o = defaults();
    size_t len = 3u << 20;
    char *text = malloc(len + 1);
    assert_non_null(text);
    memset(text, 'x', len);
    text[len] = '\0';
    refuse_bytes(text, len, &o, "sample.csv:1:|more than 1048576 bytes");
    memset(text, ',', len);
    text[1 << 20] = '\n';
    refuse_bytes(text, len, &o, "more than 1600 columns");
    memcpy(text, LLM, strlen(LLM));
    refuse_bytes(text, len, &o, "sample.csv:2:");
    free(text);
}

/* A file cut anywhere is a shorter trace or a clear error, never another. */
static void test_every_truncation(void **state)
{
    (void)state;
    static const char *const texts[] = {
        TEN,
        BURST "5,ChatGPT,472,18,490,Conversation log\n6,GPT-4,1,2,3,API log\n",
        MOON("0", "1", "1") MOON("1", "2", "3"),
        SWARM("0", "1", "1", "1") SWARM("1", "2", "2", "3"),
        F2021 "a,b,10,1\na,c,70,1\n",
        F2019 "o,a,f,http,3,2,4,3\n",
    };
    struct trace_options o = defaults();
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct trace whole = parse(texts[i], &o);
        for (size_t len = 0; len < strlen(texts[i]); len++) {
            struct trace t = {0};
            struct error err = {0};
            char *copy = malloc(len > 0 ? len : 1);
            assert_non_null(copy);
            memcpy(copy, texts[i], len);
            int r = parse_bytes(copy, len, &o, &t, &err);
            free(copy);
            assert_true(r == 0 ? t.count > 0 && t.count <= whole.count
                               : strstr(err.text, "sample.csv") != NULL);
            trace_free(&t);
        }
        trace_free(&whole);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_azure_llm),
        cmocka_unit_test(test_azure_llm_variants),
        cmocka_unit_test(test_calendar),
        cmocka_unit_test(test_azure_llm_refusals),
        cmocka_unit_test(test_small_disorder_is_sorted),
        cmocka_unit_test(test_burstgpt),
        cmocka_unit_test(test_burstgpt_sessions),
        cmocka_unit_test(test_burstgpt_refusals),
        cmocka_unit_test(test_mooncake),
        cmocka_unit_test(test_swarmlora),
        cmocka_unit_test(test_jsonl_refusals),
        cmocka_unit_test(test_azure_2021),
        cmocka_unit_test(test_azure_2021_refusals),
        cmocka_unit_test(test_azure_2019),
        cmocka_unit_test(test_azure_2019_refusals),
        cmocka_unit_test(test_no_text),
        cmocka_unit_test(test_endless_lines),
        cmocka_unit_test(test_every_truncation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
