/* `sllora chat`: a conversation with one function, streamed, over the admin socket. */
#include "cli/cli.h"
#include "cli/client.h"

#include <argp.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct chat_arguments {
    struct cli_common common;
    const char *function;
    const char *message; /* one question, then the end; NULL: a conversation */
    const char *system;
    double temperature;
    int max_tokens;
    long long seed;
    bool has_seed;
};

struct stream {
    bool json;
    bool failed;
    char *answer; /* owned, the whole text */
    size_t bytes;
};

static int keep(struct stream *s, const char *text)
{
    size_t n = strlen(text);
    char *more = realloc(s->answer, s->bytes + n + 1);
    if (more == NULL)
        return -ENOMEM;
    memcpy(more + s->bytes, text, n + 1);
    s->answer = more;
    s->bytes += n;
    return 0;
}

static int on_line(void *context, const char *line, size_t len)
{
    struct stream *s = context;
    if (strncmp(line, "data: ", 6) != 0 || strcmp(line, "data: [DONE]") == 0)
        return 0;
    json_t *chunk = json_loadb(line + 6, len - 6, JSON_REJECT_DUPLICATES, NULL);
    const char *message = NULL;
    const char *text = NULL;
    if (s->json && chunk != NULL)
        cli_print_json(chunk);
    if (json_unpack(chunk, "{s:{s:s}}", "error", "message", &message) == 0) {
        cli_complain("chat", "%s", message);
        s->failed = true;
    } else if (json_unpack(chunk, "{s:[{s:{s:s}}]}", "choices", "delta", "content", &text) == 0) {
        if (!s->json) {
            fputs(text, stdout);
            fflush(stdout);
        }
        keep(s, text);
    }
    json_decref(chunk);
    return 0;
}

static json_t *request_of(const struct chat_arguments *a, json_t *messages)
{
    json_t *o =
        json_pack("{s:s, s:O, s:b}", "model", a->function, "messages", messages, "stream", true);
    if (a->temperature >= 0)
        json_object_set_new(o, "temperature", json_real(a->temperature));
    if (a->max_tokens > 0)
        json_object_set_new(o, "max_tokens", json_integer(a->max_tokens));
    if (a->has_seed)
        json_object_set_new(o, "seed", json_integer(a->seed));
    return o;
}

/* Asks with the whole conversation and adds the answer to it. */
static int ask(const struct chat_arguments *a, struct client *client, json_t *messages)
{
    struct stream s = {.json = a->common.json};
    struct error err = {0};
    json_t *document = NULL;
    json_t *body = request_of(a, messages);
    int status =
        client_lines(client, "POST", "/v1/chat/completions", body, on_line, &s, &document, &err);
    json_decref(body);
    int result = s.failed ? CLI_FAILED : CLI_OK;
    const char *message = NULL;
    if (status < 0) {
        cli_complain("chat", "%s", err.text);
        result = status == -ECONNREFUSED ? CLI_NO_SERVER : CLI_FAILED;
    } else if (status != 200) {
        json_unpack(document, "{s:{s:s}}", "error", "message", &message);
        cli_complain("chat", "%s", message != NULL ? message : "the server refused");
        result = status == 404 ? CLI_NOT_FOUND : CLI_FAILED;
    } else if (!s.json) {
        putchar('\n');
    }
    if (result == CLI_OK)
        json_array_append_new(messages, json_pack("{s:s, s:s}", "role", "assistant", "content",
                                                  s.answer != NULL ? s.answer : ""));
    json_decref(document);
    free(s.answer);
    return result;
}

static void add_message(json_t *messages, const char *role, const char *text)
{
    json_t *content = json_string(text);
    if (content == NULL) /* not UTF-8 */
        content = json_string("");
    json_array_append_new(messages, json_pack("{s:s, s:o}", "role", role, "content", content));
}

static int converse(const struct chat_arguments *a, struct client *client, json_t *messages)
{
    bool terminal = isatty(STDIN_FILENO);
    char *line = NULL;
    size_t cap = 0;
    int result = CLI_OK;
    if (terminal)
        fprintf(stderr, "talking to %s; an empty line or ^D ends\n", a->function);
    for (;;) {
        if (terminal)
            fprintf(stderr, "> ");
        ssize_t n = getline(&line, &cap, stdin);
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r'))
            line[--n] = '\0';
        if (n <= 0)
            break;
        add_message(messages, "user", line);
        result = ask(a, client, messages);
        if (result != CLI_OK)
            break;
    }
    free(line);
    return result;
}

enum { OPT_SYSTEM = 256, OPT_TEMPERATURE, OPT_MAX_TOKENS, OPT_SEED };

static const struct argp_option options[] = {
    {"message", 'm', "TEXT", 0, "ask this one thing and end", 1},
    {"system", OPT_SYSTEM, "TEXT", 0, "the system message", 1},
    {"temperature", OPT_TEMPERATURE, "T", 0, "0: always the likeliest token", 1},
    {"max-tokens", OPT_MAX_TOKENS, "N", 0, "length of an answer", 1},
    {"seed", OPT_SEED, "N", 0, "the same seed gives the same answer", 1},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct chat_arguments *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->common;
        return 0;
    case 'm':
        a->message = arg;
        return 0;
    case OPT_SYSTEM:
        a->system = arg;
        return 0;
    case OPT_TEMPERATURE:
        a->temperature = cli_number(state, "temperature", arg, 0, 2);
        return 0;
    case OPT_MAX_TOKENS:
        a->max_tokens = (int)cli_whole(state, "max-tokens", arg, 1, 1000000);
        return 0;
    case OPT_SEED:
        a->seed = (long long)cli_number(state, "seed", arg, -9e15, 9e15);
        a->has_seed = true;
        return 0;
    case ARGP_KEY_ARG:
        if (a->function != NULL)
            argp_error(state, "one function at a time: \"%s\" is too much", arg);
        a->function = arg;
        return 0;
    case ARGP_KEY_END:
        if (a->function == NULL)
            argp_error(state, "which function? sllora ls lists them");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int cmd_chat(int argc, char **argv)
{
    static const struct argp_child children[] = {{&cli_common_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .args_doc = "NAME",
        .doc = "Talks to a function; each line of input is a message.\v"
               "Example: sllora chat support -m 'Where is my parcel?'",
        .children = children,
    };
    struct chat_arguments a = {.temperature = -1};
    struct error err = {0};
    struct client *client;
    cli_common_init(&a.common);
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    if (client_open(&client, a.common.data_dir, &err) < 0) {
        cli_complain("chat", "%s", err.text);
        return CLI_FAILED;
    }
    json_t *messages = json_array();
    if (a.system != NULL)
        add_message(messages, "system", a.system);
    int result;
    if (a.message != NULL) {
        add_message(messages, "user", a.message);
        result = ask(&a, client, messages);
    } else {
        result = converse(&a, client, messages);
    }
    json_decref(messages);
    client_close(client);
    return result;
}
