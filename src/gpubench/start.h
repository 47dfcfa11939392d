/*
 * What it takes until a function answers whose backbone is on the GPU already, and what a worker of
 * its own takes there. One decision: workers are measured as what they are, processes that are
 * executed and are handed descriptors. This one is their keeper; they are this program again, with
 * START_WORKER as its only argument.
 */
#pragma once

#include "gpubench/bed.h"

#define START_WORKER "worker-of-start"

/* Figures of a start from nothing, of one from a spare, and of a worker's memory: medians of five
 * workers. */
int start_run(struct bed *b, struct error *err);

/* The worker: told by its keeper what to do through `socket`; the exit status. */
int start_worker(int socket);
