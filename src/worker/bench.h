/*
 * The engine measured alone, in this process: `sllora-worker bench NAME DIR`, started by
 * `sllora bench`, which writes the checkpoint; one JSON object a line on stdout. Every figure
 * stands beside the machine's ceiling, measured between the runs, because memory on shared machines
 * changes its speed with time.
 */
#pragma once

int bench_main(int argc, char **argv);
