/* `sllora synth`: its arguments, and progress on a terminal. synth.c writes the files. */
#include "cli/cli.h"
#include "cli/synth.h"

#include <argp.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { OPT_SHAPE = 256, OPT_ADAPTERS, OPT_RANK, OPT_SEED, OPT_LAYERS };

static const struct argp_option options[] = {
    {"shape", OPT_SHAPE, "NAME", 0, "whose shape", 1},
    {"adapters", OPT_ADAPTERS, "N", 0, "adapters beside it, DIR/adapters/adapter-0 ... (0)", 1},
    {"rank", OPT_RANK, "R", 0, "of every adapter, on all seven projections (16)", 1},
    {"layers", OPT_LAYERS, "N", 0, "fewer or more layers than the shape has", 1},
    {"seed", OPT_SEED, "S", 0, "the same seed writes the same bytes (1)", 1},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct synth_options *o = state->input;
    switch (key) {
    case OPT_SHAPE:
        o->shape = arg;
        return 0;
    case OPT_ADAPTERS:
        o->adapter_count = (uint32_t)cli_whole(state, "adapters", arg, 0, SYNTH_ADAPTERS_MAX);
        return 0;
    case OPT_RANK:
        o->rank = (uint32_t)cli_whole(state, "rank", arg, 0, SYNTH_RANK_MAX);
        return 0;
    case OPT_LAYERS:
        o->layers = (uint32_t)cli_whole(state, "layers", arg, 0, 1000);
        return 0;
    case OPT_SEED:
        o->seed = cli_whole(state, "seed", arg, 0, UINT64_MAX);
        return 0;
    case ARGP_KEY_ARG:
        if (o->dir != NULL)
            argp_error(state, "one directory at a time: \"%s\" is too much", arg);
        o->dir = arg;
        return 0;
    case ARGP_KEY_END:
        if (o->dir == NULL || o->shape == NULL)
            argp_error(state, "needed: a directory to make and --shape NAME");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static char *list_shapes(int key, const char *text, void *input)
{
    (void)input;
    if (key != ARGP_KEY_HELP_POST_DOC)
        return (char *)(uintptr_t)text;
    char *list = NULL;
    size_t bytes = 0;
    FILE *f = open_memstream(&list, &bytes);
    if (f == NULL)
        return NULL;
    fprintf(f, "Shapes:");
    for (uint32_t i = 0; synth_shape_name(i) != NULL; i++)
        fprintf(f, "%s %s", i > 0 ? "," : "", synth_shape_name(i));
    fprintf(f, "\nExample: sllora synth ./m --shape qwen2.5-0.5b --adapters 4 --rank 16");
    fclose(f);
    return list;
}

static void on_progress(void *user, uint64_t done, uint64_t total)
{
    char a[32], b[32];
    const bool *terminal = user;
    if (*terminal)
        fprintf(stderr, "\r%s of %s   ", cli_bytes_text((double)done, a, sizeof a),
                cli_bytes_text((double)total, b, sizeof b));
}

int cmd_synth(int argc, char **argv)
{
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .args_doc = "DIR",
        .doc =
            "Writes a checkpoint with random weights in a real model's shape, a tokenizer padded "
            "to its vocabulary, and PEFT adapters: speed and memory can be measured without a "
            "download.\v",
        .help_filter = list_shapes,
    };
    struct synth_options o = {.rank = 16, .seed = 1};
    struct error err = {0};
    argp_err_exit_status = CLI_USAGE;
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    bool terminal = isatty(STDERR_FILENO);
    int r = synth_write(&o, on_progress, &terminal, &err);
    if (terminal)
        fprintf(stderr, "\r%40s\r", "");
    if (r < 0) {
        cli_complain("synth", "%s", err.text);
        return r == -EINVAL ? CLI_USAGE : CLI_FAILED;
    }
    printf("wrote %s in the shape of %s, %u adapters\n", o.dir, o.shape, o.adapter_count);
    return CLI_OK;
}
