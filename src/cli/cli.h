/*
 * What the commands share. Each command is a function that parses its own arguments with argp and
 * returns an exit status:
 *
 *   0 done   1 refused or failed, the reason is on stderr   2 wrong arguments
 *   3 no server answers   4 there is no such function
 */
#pragma once

#include "base/error.h"

#include <argp.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

enum cli_status {
    CLI_OK = 0,
    CLI_FAILED = 1,
    CLI_USAGE = 2,
    CLI_NO_SERVER = 3,
    CLI_NOT_FOUND = 4,
};

int cmd_serve(int argc, char **argv);
int cmd_deploy(int argc, char **argv);
int cmd_ls(int argc, char **argv);
int cmd_describe(int argc, char **argv);
int cmd_rm(int argc, char **argv);
int cmd_chat(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_synth(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_sim(int argc, char **argv);
int cmd_bill(int argc, char **argv);
int cmd_replay(int argc, char **argv);
int cmd_top(int argc, char **argv);
int cmd_plan(int argc, char **argv);
int cmd_logs(int argc, char **argv);
int cmd_owner(int argc, char **argv);

/* Where the server's data is: --data, $SLLORA_DATA or the default of `serve`. */
struct cli_common {
    char data_dir[4096];
    bool json;
};

/* argp child with --data and --json; its input is a struct cli_common. */
extern const struct argp cli_common_argp;
void cli_common_init(struct cli_common *c);

/* The value of a numeric flag, or argp's usage error that names flag, range and value. */
double cli_number(const struct argp_state *state, const char *flag, const char *arg, double min,
                  double max);
uint64_t cli_whole(const struct argp_state *state, const char *flag, const char *arg, uint64_t min,
                   uint64_t max);

/* Prints the document on one line. */
void cli_print_json(const json_t *document);
/* "sllora COMMAND: sentence" on stderr. */
void cli_complain(const char *command, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Says what the server said (its error object, or NULL), and what it means for the exit status. */
int cli_refused(const char *command, int status, const json_t *document);
/* One request over the admin socket, one JSON answer. CLI_OK with *ret, the caller's, or a status
 * that has been explained. `body` may be NULL. */
int cli_ask(const char *command, const struct cli_common *common, const char *method,
            const char *path, const json_t *body, json_t **ret);
/* 1536 → "1.5 KiB" */
const char *cli_bytes_text(double bytes, char *to, size_t size);
