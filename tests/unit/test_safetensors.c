/* The safetensors container: what is read from it, and every way in which it can lie. */
#include "weights/safetensors.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct file {
    char bytes[8192];
    size_t len;
};

static struct file make(const char *header, size_t data_bytes)
{
    struct file f = {.len = 8 + strlen(header) + data_bytes};
    uint64_t length = strlen(header);
    assert_true(f.len <= sizeof f.bytes);
    memcpy(f.bytes, &length, 8);
    memcpy(f.bytes + 8, header, length);
    return f;
}

static void refuse_file(const struct file *f, const char *words)
{
    struct safetensors s = {.tensor_count = 77};
    struct error err = {0};
    int r = safetensors_parse(f->bytes, f->len, f->len, &s, &err);
    if (r >= 0 || strstr(err.text, words) == NULL)
        fail_msg("%.200s: %d \"%s\", expected \"%s\"", f->bytes + 8, r, err.text, words);
    assert_int_equal(s.tensor_count, 77);
}

static void refuse(const char *header, size_t data_bytes, const char *words)
{
    struct file f = make(header, data_bytes);
    refuse_file(&f, words);
}

static void test_good(void **state)
{
    (void)state;
    struct file f = make("{\"__metadata__\":{\"format\":\"pt\"},"
                         "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[16,28]},"
                         "\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]},"
                         "\"none\":{\"dtype\":\"F16\",\"shape\":[0,5],\"data_offsets\":[28,28]},"
                         "\"one\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[28,36]}}   ",
                         36);
    struct safetensors s;
    struct error err = {0};
    uint64_t head_bytes = 0;
    assert_int_equal(safetensors_head_bytes(f.bytes, 8, f.len, &head_bytes, &err), 0);
    assert_int_equal(head_bytes, f.len - 36);
    assert_int_equal(safetensors_parse(f.bytes, head_bytes, f.len, &s, &err), 0);
    assert_int_equal(s.tensor_count, 4);
    assert_string_equal(s.tensors[0].name, "a");
    assert_int_equal(s.tensors[0].offset, head_bytes);
    assert_int_equal(s.tensors[0].dtype, SAFETENSORS_F32);
    assert_string_equal(s.tensors[1].name, "b");
    assert_int_equal(s.tensors[1].offset, head_bytes + 16);
    assert_int_equal(s.tensors[1].bytes, 12);
    assert_int_equal(s.tensors[1].dims[1], 3);
    char shape[SAFETENSORS_SHAPE_BYTES];
    assert_string_equal(safetensors_shape(&s.tensors[1], shape), "[2, 3]");
    assert_string_equal(s.tensors[2].name, "none");
    assert_int_equal(s.tensors[3].dtype, SAFETENSORS_OTHER);
    assert_int_equal(s.tensors[3].dim_count, 0);
    safetensors_free(&s);
}

static void test_every_truncation(void **state)
{
    (void)state;
    struct file f = make("{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}", 16);
    for (size_t len = 0; len < f.len; len++) {
        struct file cut = f;
        cut.len = len;
        refuse_file(&cut, "truncated");
    }
    struct file longer = f;
    longer.len++;
    refuse_file(&longer, "belong to none");
}

static void test_lengths(void **state)
{
    (void)state;
    struct file f = make("{}", 0);
    static const uint64_t lengths[] = {3, 1u << 20, UINT64_C(1) << 26 | 1, INT64_MAX, UINT64_MAX};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        struct file bad = f;
        memcpy(bad.bytes, &lengths[i], 8);
        refuse_file(&bad, lengths[i] > SAFETENSORS_HEADER_BYTES_MAX ? "the limit is" : "truncated");
    }
    refuse("", 0, "no JSON object");
    refuse(" {}", 0, "no JSON object");
    refuse("[]", 0, "no JSON object");
}

static void test_offsets(void **state)
{
    (void)state;
#define T(name, count, begin, end)                                                                 \
    "\"" name "\":{\"dtype\":\"F32\",\"shape\":[" count "],\"data_offsets\":[" begin "," end "]}"
    refuse("{" T("a", "4", "0", "16") "," T("b", "4", "8", "24") "}", 24, "overlaps");
    refuse("{" T("a", "4", "0", "16") "," T("b", "4", "0", "16") "}", 16, "overlaps");
    refuse("{" T("a", "4", "0", "16") "," T("b", "4", "20", "36") "}", 36, "hole");
    refuse("{" T("a", "4", "4", "20") "}", 20, "hole");
    refuse("{" T("a", "4", "0", "20") "}", 20, "do not fill");
    refuse("{" T("a", "4", "16", "0") "}", 16, "no range");
    refuse("{" T("a", "4", "-16", "0") "}", 16, "no range");
    refuse("{" T("a", "4", "0", "16.0") "}", 16, "no range");
    refuse("{" T("a", "4", "0", "9223372036854775807") "}", 16, "truncated");
    refuse("{" T("a", "4", "0", "99999999999999999999") "}", 16, "holds no sizes");
    refuse("{" T("a", "4294967296,4294967296", "0", "16") "}", 16, "overflow");
    refuse("{" T("a", "4611686018427387905", "0", "4") "}", 4, "do not fill");
    refuse("{" T("a", "-4", "0", "16") "}", 16, "holds no sizes");
    refuse("{" T("a", "1,1,1,1,1,1,1,1,4", "0", "16") "}", 16, "at most 8");
    refuse("{" T("a", "4", "0", "16") "," T("a", "4", "16", "32") "}", 32, "duplicate");
#undef T
}

static void test_descriptions(void **state)
{
    (void)state;
    refuse("{\"a\":5}", 0, "tensor a: described by 5");
    refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "are needed");
    refuse("{\"a\":{\"dtype\":\"F4\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "\"F4\"");
    refuse("{\"a\":{\"dtype\":32,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "dtype 32");
    refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}}", 4, "shape 1");
    refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":{}}}", 4, "no range");
    refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[[1]],\"data_offsets\":[0,4]}}", 4,
           "nested deeper");
    refuse("{\"a\":", 0, "malformed");
    /* A name is not allowed to bring control characters into a terminal. */
    refuse("{\"a\\u001b[2J\":5}", 0, "tensor a?[2J");
    char name[SAFETENSORS_NAME_BYTES_MAX + 2];
    char header[2048];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    snprintf(header, sizeof header,
             "{\"%s\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", name);
    refuse(header, 4, "name is longer");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),         cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_lengths),      cmocka_unit_test(test_offsets),
        cmocka_unit_test(test_descriptions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
