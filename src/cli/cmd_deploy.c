/* `sllora deploy`: a function, over the admin socket; prints the certificate of its adapter. */
#include "cli/cli.h"
#include "cli/client.h"

#include <argp.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    OPT_BACKBONE = 256,
    OPT_ADAPTER,
    OPT_OWNER,
    OPT_ISOLATION,
    OPT_QUANT,
    OPT_ADAPTER_QUANT,
    OPT_IF_GENERATION,
    OPT_ALLOW_NOOP,
    OPT_SLO_TTFT,
    OPT_SLO_TPOT,
};

struct deploy_arguments {
    struct cli_common common;
    const char *name;
    const char *backbone;
    const char *adapter;
    const char *owner;
    const char *isolation;
    const char *quant;
    const char *adapter_quant;
    bool has_generation;
    uint64_t if_generation;
    bool allow_noop;
    double slo_ttft_ms, slo_tpot_ms; /* 0: none named */
};

static const struct argp_option deploy_options[] = {
    {"backbone", OPT_BACKBONE, "DIR", 0, "a Hugging Face checkpoint directory", 1},
    {"adapter", OPT_ADAPTER, "DIR", 0, "a PEFT adapter directory; without it the bare backbone", 1},
    {"owner", OPT_OWNER, "NAME", 0, "who it belongs to (default)", 1},
    {"isolation", OPT_ISOLATION, "function|owner|shared", 0,
     "who shares its process: nobody, its owner's functions, every shared one (owner)", 1},
    {"quant", OPT_QUANT, "bf16|int8|int4|f32", 0, "how matrices are kept (bf16)", 1},
    {"adapter-quant", OPT_ADAPTER_QUANT, "bf16|int8|f32", 0,
     "how the adapter's are kept (bf16; f32 with --quant f32)", 1},
    {"slo-ttft", OPT_SLO_TTFT, "MS", 0,
     "objective for the first token: what cannot meet it is refused at once", 1},
    {"slo-tpot", OPT_SLO_TPOT, "MS", 0, "objective for each further token", 1},
    {"if-generation", OPT_IF_GENERATION, "N", 0,
     "only if NAME's generation is N; 0: only if there is no NAME", 2},
    {"allow-noop", OPT_ALLOW_NOOP, NULL, 0, "also an adapter that changes no answer", 2},
    {0},
};

static error_t deploy_parse(int key, char *arg, struct argp_state *state)
{
    struct deploy_arguments *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->common;
        return 0;
    case OPT_BACKBONE:
        a->backbone = arg;
        return 0;
    case OPT_ADAPTER:
        a->adapter = arg;
        return 0;
    case OPT_OWNER:
        a->owner = arg;
        return 0;
    case OPT_ISOLATION:
        a->isolation = arg;
        return 0;
    case OPT_QUANT:
        a->quant = arg;
        return 0;
    case OPT_ADAPTER_QUANT:
        a->adapter_quant = arg;
        return 0;
    case OPT_IF_GENERATION:
        a->has_generation = true;
        a->if_generation = cli_whole(state, "if-generation", arg, 0, INT64_MAX);
        return 0;
    case OPT_SLO_TTFT:
        a->slo_ttft_ms = cli_number(state, "slo-ttft", arg, 0.001, 1e9);
        return 0;
    case OPT_SLO_TPOT:
        a->slo_tpot_ms = cli_number(state, "slo-tpot", arg, 0.001, 1e9);
        return 0;
    case OPT_ALLOW_NOOP:
        a->allow_noop = true;
        return 0;
    case ARGP_KEY_ARG:
        if (a->name != NULL)
            argp_error(state, "one function at a time: \"%s\" is too much", arg);
        a->name = arg;
        return 0;
    case ARGP_KEY_END:
        if (a->name == NULL || a->backbone == NULL)
            argp_error(state, "needed: a name and --backbone DIR");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

struct deploy_progress {
    const struct deploy_arguments *arguments;
    bool terminal;
    bool deployed;
    bool explained;
};

static void draw_bar(const char *part, double done, double total)
{
    int width = total > 0 ? (int)(30 * done / total) : 0;
    char a[32], b[32];
    fprintf(stderr, "\r%-8s [%-30.*s] %s of %s   ", part, width, "##############################",
            cli_bytes_text(done, a, sizeof a), cli_bytes_text(total, b, sizeof b));
    fflush(stderr);
}

/* --- the certificate, for people --- */

/* What a packer wrote, without what a terminal would obey. */
static void print_word(const char *s)
{
    for (; s != NULL && *s != '\0'; s++)
        putchar((unsigned char)*s < 0x20 || *s == 0x7f ? '?' : *s);
}

static bool is_treated_alike(const json_t *a, const json_t *b)
{
    static const char *const keys[] = {"scale", "rank", "dora", "saved", "bias", "layers"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        const json_t *x = json_object_get(a, keys[i]);
        const json_t *y = json_object_get(b, keys[i]);
        if (x != y && (x == NULL || y == NULL || !json_equal(x, y)))
            return false;
    }
    return true;
}

/* Neighbours that are treated alike on one line:
 * "self_attn.q_proj self_attn.k_proj: scale 2, rank 8, 6 layers". */
static void print_modules(const json_t *modules)
{
    size_t i;
    json_t *m;
    json_array_foreach(modules, i, m)
    {
        const json_t *next = json_array_get(modules, i + 1);
        const json_t *before = i > 0 ? json_array_get(modules, i - 1) : NULL;
        printf(before != NULL && is_treated_alike(before, m) ? " " : "  modules   ");
        print_word(json_string_value(json_object_get(m, "module")));
        if (next != NULL && is_treated_alike(m, next))
            continue;
        const char *mark = ": ";
        const json_t *scale = json_object_get(m, "scale");
        long long layers = json_integer_value(json_object_get(m, "layers"));
        if (scale != NULL)
            printf(": scale %g, rank %lld", json_number_value(scale),
                   json_integer_value(json_object_get(m, "rank")));
        mark = scale != NULL ? ", " : mark;
        if (json_is_true(json_object_get(m, "dora")))
            printf("%sDoRA", mark);
        if (json_is_true(json_object_get(m, "saved")))
            printf("%ssaved whole", mark);
        mark = json_is_true(json_object_get(m, "saved")) ? ", " : mark;
        if (json_is_true(json_object_get(m, "bias")))
            printf("%sbias", mark);
        if (layers > 0)
            printf(", %lld layers", layers);
        putchar('\n');
    }
}

static void print_certificate(const json_t *c)
{
    char bytes[32];
    const json_t *probe = json_object_get(c, "probe");
    printf("  tensors   %lld matched, %lld unmatched; %lld parameters, %s\n",
           json_integer_value(json_object_get(c, "tensors_matched")),
           json_integer_value(json_object_get(c, "tensors_unmatched")),
           json_integer_value(json_object_get(c, "parameters")),
           cli_bytes_text(json_number_value(json_object_get(c, "bytes")), bytes, sizeof bytes));
    print_modules(json_object_get(c, "modules"));
    long long left_out = json_integer_value(json_object_get(c, "modules_left_out"));
    if (left_out > 0)
        printf("  ...       and %lld more kinds of modules\n", left_out);
    printf("  probe     %lld tokens: logits change by up to %.4g, KL %.4g, %lld positions prefer "
           "another token (%.1f ms)\n",
           json_integer_value(json_object_get(probe, "tokens")),
           json_number_value(json_object_get(probe, "max_logit_change")),
           json_number_value(json_object_get(probe, "mean_kl")),
           json_integer_value(json_object_get(probe, "argmax_changed")),
           json_number_value(json_object_get(probe, "ms")));
}

static void print_deployed(const char *name, const json_t *o)
{
    const char *adapter = json_string_value(json_object_get(o, "adapter"));
    printf("deployed %s generation %lld in %.0f ms (backbone %.12s, adapter %.12s)\n", name,
           json_integer_value(json_object_get(o, "generation")),
           json_number_value(json_object_get(o, "ms")),
           json_string_value(json_object_get(o, "backbone")), adapter != NULL ? adapter : "none");
    if (adapter != NULL)
        print_certificate(json_object_get(o, "certificate"));
    size_t i;
    json_t *warning;
    json_array_foreach(json_object_get(o, "warnings"), i, warning)
        printf("  warning   %s\n", json_string_value(warning));
}

/* --- the request --- */

static int on_deploy_line(void *context, const char *line, size_t len)
{
    struct deploy_progress *p = context;
    json_t *o = json_loadb(line, len, JSON_REJECT_DUPLICATES, NULL);
    const char *state = json_string_value(json_object_get(o, "state"));
    if (state != NULL && strcmp(state, "packing") == 0 && p->terminal)
        draw_bar(json_string_value(json_object_get(o, "part")),
                 json_number_value(json_object_get(o, "done")),
                 json_number_value(json_object_get(o, "total")));
    else if (p->terminal)
        fprintf(stderr, "\r%72s\r", "");
    if (json_object_get(o, "error") != NULL) {
        p->explained = true;
        cli_refused("deploy", CLI_FAILED, o);
    } else if (state != NULL && strcmp(state, "deployed") == 0) {
        p->explained = true;
        p->deployed = true;
        if (!p->arguments->common.json)
            print_deployed(p->arguments->name, o);
    }
    if (p->arguments->common.json && state != NULL)
        cli_print_json(o);
    json_decref(o);
    return 0;
}

static int put_path(json_t *body, const char *key, const char *path)
{
    char absolute[PATH_MAX];
    if (realpath(path, absolute) == NULL) {
        cli_complain("deploy", "--%s %s: %s", key, path, strerror(errno));
        return -1;
    }
    return json_object_set_new(body, key, json_string(absolute));
}

static int deploy_body(const struct deploy_arguments *a, json_t *body)
{
    int r = json_object_set_new(body, "name", json_string(a->name));
    if (r == 0)
        r = put_path(body, "backbone", a->backbone);
    if (r == 0 && a->adapter != NULL)
        r = put_path(body, "adapter", a->adapter);
    if (r == 0 && a->owner != NULL)
        r = json_object_set_new(body, "owner", json_string(a->owner));
    if (r == 0 && a->isolation != NULL)
        r = json_object_set_new(body, "isolation", json_string(a->isolation));
    if (r == 0 && a->quant != NULL)
        r = json_object_set_new(body, "quant", json_string(a->quant));
    if (r == 0 && a->adapter_quant != NULL)
        r = json_object_set_new(body, "adapter_quant", json_string(a->adapter_quant));
    if (r == 0 && a->slo_ttft_ms > 0)
        r = json_object_set_new(body, "slo_ttft_ms", json_real(a->slo_ttft_ms));
    if (r == 0 && a->slo_tpot_ms > 0)
        r = json_object_set_new(body, "slo_tpot_ms", json_real(a->slo_tpot_ms));
    if (r == 0 && a->has_generation)
        r = json_object_set_new(body, "if_generation", json_integer((json_int_t)a->if_generation));
    if (r == 0 && a->allow_noop)
        r = json_object_set_new(body, "allow_noop", json_true());
    return r;
}

static int deploy(const struct deploy_arguments *a, const json_t *body)
{
    struct deploy_progress progress = {.arguments = a,
                                       .terminal = isatty(STDERR_FILENO) && !a->common.json};
    struct error err = {0};
    struct client *client;
    json_t *document = NULL;
    int status = client_open(&client, a->common.data_dir, &err);
    if (status == 0) {
        status = client_lines(client, "POST", "/admin/functions", body, on_deploy_line, &progress,
                              &document, &err);
        client_close(client);
    }
    int result = progress.deployed ? CLI_OK : CLI_FAILED;
    if (status < 0 && !progress.explained) {
        cli_complain("deploy", "%s", err.text);
        result = status == -ECONNREFUSED ? CLI_NO_SERVER : CLI_FAILED;
    } else if (!progress.explained) {
        result = cli_refused("deploy", status, document);
    }
    json_decref(document);
    return result;
}

int cmd_deploy(int argc, char **argv)
{
    static const struct argp_child children[] = {{&cli_common_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {
        .options = deploy_options,
        .parser = deploy_parse,
        .args_doc = "NAME",
        .doc = "Makes NAME a function: checks and packs the files (once per content), stores them, "
               "and serves NAME as a model. A name that exists gets a new generation; requests in "
               "flight finish on the old one. Prints the adapter's certificate: what was packed, "
               "and how it changes the backbone's logits on a probe prompt.\v"
               "Example: sllora deploy support --backbone ./Qwen2.5-0.5B-Instruct "
               "--adapter ./adapters/support --owner acme",
        .children = children,
    };
    struct deploy_arguments a = {0};
    cli_common_init(&a.common);
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    json_t *body = json_object();
    int result = deploy_body(&a, body) == 0 ? deploy(&a, body) : CLI_FAILED;
    json_decref(body);
    return result;
}
