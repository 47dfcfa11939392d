/* What the commands share. See cli.h. */
#include "cli/cli.h"

#include "cli/client.h"
#include "daemon/config.h"

#include <argp.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void cli_common_init(struct cli_common *c)
{
    struct daemon_config config;
    daemon_config_default(&config);
    *c = (struct cli_common){0};
    snprintf(c->data_dir, sizeof c->data_dir, "%s", config.data_dir);
    argp_err_exit_status = CLI_USAGE;
}

static error_t parse_common(int key, char *arg, struct argp_state *state)
{
    struct cli_common *c = state->input;
    if (key == 'd')
        snprintf(c->data_dir, sizeof c->data_dir, "%s", arg);
    else if (key == 'j')
        c->json = true;
    else
        return ARGP_ERR_UNKNOWN;
    return 0;
}

static const struct argp_option common_options[] = {
    {"data", 'd', "DIR", 0, "the server's data directory ($SLLORA_DATA)", 10},
    {"json", 'j', NULL, 0, "print JSON, one document a line", 10},
    {0},
};

const struct argp cli_common_argp = {.options = common_options, .parser = parse_common};

double cli_number(const struct argp_state *state, const char *flag, const char *arg, double min,
                  double max)
{
    char *end;
    double v = strtod(arg, &end);
    if (end == arg || *end != '\0' || !(v >= min && v <= max))
        argp_error(state, "--%s must be a number from %g to %g, not \"%s\"", flag, min, max, arg);
    return v;
}

uint64_t cli_whole(const struct argp_state *state, const char *flag, const char *arg, uint64_t min,
                   uint64_t max)
{
    char *end;
    errno = 0;
    unsigned long long v = strtoull(arg, &end, 10);
    if (*arg < '0' || *arg > '9' || *end != '\0' || errno != 0 || v < min || v > max)
        argp_error(state, "--%s must be a whole number from %llu to %llu, not \"%s\"", flag,
                   (unsigned long long)min, (unsigned long long)max, arg);
    return v;
}

void cli_print_json(const json_t *document)
{
    /* 15 digits: what was written with fewer reads the same */
    json_dumpf(document, stdout, JSON_COMPACT | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(15));
    putchar('\n');
    fflush(stdout);
}

void cli_complain(const char *command, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "sllora %s: ", command);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
}

int cli_refused(const char *command, int status, const json_t *document)
{
    const char *message =
        json_string_value(json_object_get(json_object_get(document, "error"), "message"));
    if (message != NULL)
        cli_complain(command, "%s", message);
    else
        cli_complain(command, "the server answered with status %d", status);
    return status == 404 ? CLI_NOT_FOUND : CLI_FAILED;
}

int cli_ask(const char *command, const struct cli_common *common, const char *method,
            const char *path, const json_t *body, json_t **ret)
{
    struct error err = {0};
    struct client *client;
    json_t *document = NULL;
    int status = client_open(&client, common->data_dir, &err);
    if (status == 0) {
        status = client_json(client, method, path, body, &document, &err);
        client_close(client);
    }
    int result = CLI_OK;
    if (status < 0) {
        cli_complain(command, "%s", err.text);
        result = status == -ECONNREFUSED ? CLI_NO_SERVER : CLI_FAILED;
    } else if (status != 200 || document == NULL) {
        result = cli_refused(command, status, document);
    }
    if (result != CLI_OK) {
        json_decref(document);
        return result;
    }
    *ret = document;
    return CLI_OK;
}

const char *cli_bytes_text(double bytes, char *to, size_t size)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    int unit = 0;
    while (bytes >= 1024 && unit < 4) {
        bytes /= 1024;
        unit++;
    }
    snprintf(to, size, unit == 0 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
    return to;
}
