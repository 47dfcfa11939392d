/* sllora: one program for the daemon and for those who talk to it. */
#include "cli/cli.h"

#include <curl/curl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
};

static const struct command commands[] = {
    {"serve", cmd_serve, "start the service"},
    {"deploy", cmd_deploy, "make a function of a backbone and an adapter"},
    {"ls", cmd_ls, "list functions"},
    {"describe", cmd_describe, "everything about one function"},
    {"rm", cmd_rm, "remove a function"},
    {"chat", cmd_chat, "talk to a function"},
    {"status", cmd_status, "processes and memory of the running service"},
    {"top", cmd_top, "the running service, live"},
    {"plan", cmd_plan, "what is in memory ahead of need, and why"},
    {"logs", cmd_logs, "what happened to a function lately"},
    {"owner", cmd_owner, "how many requests an owner may have at a time"},
    {"bill", cmd_bill, "what was used and what it costs"},
    {"replay", cmd_replay, "send a trace's requests when it says, and report"},
    {"doctor", cmd_doctor, "what this machine offers, and what is missing"},
    {"synth", cmd_synth, "write a checkpoint with random weights in a real model's shape"},
    {"bench", cmd_bench, "measure, beside the machine's ceiling"},
    {"sim", cmd_sim, "replay a live event log through the scheduler"},
};

#define COMMAND_COUNT (sizeof commands / sizeof commands[0])

static void print_help(FILE *to)
{
    fprintf(to, "Usage: sllora COMMAND [ARGUMENT ...]\n"
                "Isolated LoRA functions on one shared, read-only backbone.\n\n");
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].help);
    fprintf(to,
            "\nA first answer:\n"
            "  sllora serve &\n"
            "  sllora deploy support --backbone ./Qwen2.5-0.5B-Instruct "
            "--adapter ./adapters/support\n"
            "  sllora chat support\n\n"
            "sllora COMMAND --help says more. Exit status: 0 done, 1 refused or failed, 2 wrong "
            "arguments,\n3 no server answers, 4 no such function.\n");
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        print_help(stderr);
        return CLI_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        print_help(stdout);
        return CLI_OK;
    }
    signal(SIGPIPE, SIG_IGN);
    curl_global_init(CURL_GLOBAL_DEFAULT);
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(argv[1], commands[i].name) != 0)
            continue;
        char name[64];
        snprintf(name, sizeof name, "sllora %s", commands[i].name);
        argv[1] = name;
        return commands[i].run(argc - 1, argv + 1);
    }
    fprintf(stderr, "sllora: there is no command \"%s\"; sllora --help lists them\n", argv[1]);
    return CLI_USAGE;
}
