/*
 * What the files of picture.h share; private to picture*.c and their tests.
 *
 *   picture_log.c      bytes into checked records
 *   picture_world.c    records into what there is: requests, workers, copies, memory
 *   picture_collect.c  of that, what falls on the paper: two passes
 *   picture_lanes.c    requests into lanes and rows
 *   picture_draw.c     all of it as a drawing
 *   picture_panels.c   the parts that it is made of
 *   picture_page.c     the page around it
 *   picture.c          the file
 */
#pragma once

#include "policy/route.h"
#include "sched/sched.h"
#include "sim/picture.h"

/* A column is the finest that the picture shows: one unit of the drawing. */
#define PICTURE_COLUMNS 768u
#define PICTURE_DEVICES_MAX 8u
#define PICTURE_WORKERS_MAX 24u
#define PICTURE_REQUESTS_KEPT 65536u
#define PICTURE_LOADS_KEPT 2000u
#define PICTURE_SPANS_KEPT 65536u
#define PICTURE_DAMAGE_BYTES 160

/* --- picture_log.c --- */

struct picture_log {
    FILE *file;
    const char *name;
    struct sched_config config;
    uint64_t records;                  /* read so far, a plan's actions each */
    uint64_t origin_us, now_us;        /* of the first and the latest; time never goes back */
    uint64_t events, plans, left;      /* left: actions of the plan at hand */
    bool is_full;                      /* the daemon stopped recording */
    char damage[PICTURE_DAMAGE_BYTES]; /* why what follows was not read; "": it was read to its end
                                        */
    bool is_event;                     /* the latest record is */
    struct sched_event event;          /* this, */
    struct sched_action action;        /* or this */
};

int picture_log_begin(struct picture_log *l, FILE *file, const char *name, struct error *err);
/* True: there is a record, and every number in it that names something is within the limits. */
bool picture_log_next(struct picture_log *l);

/* --- what there is --- */

/* A request's time from arrival to end, in this order. */
enum picture_part {
    PICTURE_LOAD,  /* waited for its backbone or adapter */
    PICTURE_START, /* for a process */
    PICTURE_BIND,  /* for its function to be bound to the process */
    PICTURE_QUEUE, /* until it was submitted, or, without a receipt, for whatever it was */
    PICTURE_FIRST, /* until its first token */
    PICTURE_REST,  /* until its last one */
    PICTURE_PARTS,
};

enum picture_end {
    PICTURE_DONE,
    PICTURE_LEFT, /* its client went */
    PICTURE_LOST, /* its process ended */
    PICTURE_REFUSED,
    PICTURE_OPEN, /* the log ends first */
    PICTURE_ENDS,
};

struct picture_request {
    uint64_t id;
    uint64_t arrived_us;
    uint64_t part_us[PICTURE_PARTS]; /* they add up to its whole time */
    uint64_t device_us;
    uint32_t function;
    uint32_t prompt_tokens, cached_tokens, new_tokens;
    uint8_t end;    /* enum picture_end */
    uint8_t reason; /* enum sched_reason */
    bool has_receipt;
    bool has_first; /* token */
};

uint64_t picture_request_us(const struct picture_request *r);

enum picture_state {
    PICTURE_STARTING,
    PICTURE_SPARE,
    PICTURE_IDLE,
    PICTURE_SERVING,
    PICTURE_ENDING,
    PICTURE_LOADING, /* not of a process: a copy comes */
    PICTURE_STATES,
};

struct picture_span {
    uint64_t begin_us, end_us;
    uint32_t number; /* of the worker; of the copy's backbone or function */
    uint16_t domain; /* index into the picture's; its domain_count: none or another */
    uint8_t state;   /* enum picture_state */
    bool is_adapter; /* PICTURE_LOADING */
    bool has_failed;
};

struct picture_turn {
    uint64_t begin_us, end_us;
    uint32_t device, worker;
};

enum picture_memory {
    PICTURE_BACKBONES,
    PICTURE_ADAPTERS,
    PICTURE_PROCESSES, /* what they hold beside it, more while they work */
    PICTURE_KV,
    PICTURE_MEMORIES,
};

struct picture_levels {
    double bytes[PICTURE_MEMORIES];
};

/* --- picture_world.c: what the records say there is --- */

struct picture;

/* A memory; a device's is numbered as the device, a node's after all devices. */
struct picture_world_place {
    bool exists;
    bool is_busy;    /* a device: the turn is somebody's */
    bool keeps_work; /* its workers hold what they compute in also while they are idle */
    uint32_t node;
    double budget, worker_bytes;
    struct picture_levels now;
    uint64_t since_us;
    struct picture_turn turn;
};

struct picture_world {
    const struct picture_log *log;
    struct picture *picture;
    struct picture_world_place *places; /* [devices_max + nodes_max] */
    struct route_domain *domains;       /* [functions_max], of each; group 0: not known */
    double *work_bytes;                 /* [backbones_max] */
    struct picture_worker *workers;
    uint32_t *slots; /* [workers_max][worker_slots_max], 1 + the adapter's copy; 0: none */
    struct picture_copy *copies;
    struct picture_live *requests; /* those that are not over; grows up to the log's limit */
    uint32_t *buckets;             /* [request_cap], 1 + the head of a hash chain */
    uint32_t request_cap, request_free, requests_max;
    uint64_t lives;
    int failed; /* -ENOMEM */
};

int picture_world_init(struct picture_world *w, const struct picture_log *log, struct picture *p);
void picture_world_free(struct picture_world *w);
/* The log's latest record. */
void picture_world_apply(struct picture_world *w);
/* What is there yet when the log is over. */
void picture_world_end(struct picture_world *w);

/* --- picture_collect.c --- */

struct picture_function {
    uint32_t number;
    uint32_t domain;   /* index of its domain */
    uint64_t requests; /* in the window, */
    uint64_t ends[PICTURE_ENDS];
};

struct picture_place {
    uint32_t number;
    bool is_device;
    double budget;
    struct picture_levels *columns; /* [PICTURE_COLUMNS], the moment with most in each; owned */
};

struct picture {
    const char *name;
    struct picture_options options;
    bool is_counting;            /* the first pass */
    uint64_t origin_us, last_us; /* of the log */
    uint64_t begin_us, end_us;   /* what is shown */
    uint64_t first_us, over_us;  /* of its requests: the first arrival, the last end */
    uint64_t records, events, plans;
    bool is_full;
    char damage[PICTURE_DAMAGE_BYTES];

    struct picture_function functions[PICTURE_FUNCTIONS_MAX + 1]; /* the last: all the others */
    uint32_t function_count;                                      /* without those */
    uint64_t other_functions;                                     /* how many they are */
    struct route_domain domains[PICTURE_FUNCTIONS_MAX];
    uint32_t domain_count;
    uint32_t *counts; /* [functions_max], requests in the window; owned */
    uint32_t functions_max, devices_max, backbones_seen;

    struct picture_request *requests; /* owned */
    uint32_t request_count, request_cap;
    uint64_t requests_seen, request_stride;
    struct picture_span *spans; /* of workers, owned */
    uint32_t span_count, span_cap;
    uint32_t last_span[PICTURE_WORKERS_MAX]; /* index + 1 */
    uint64_t spans_left_out, workers_left_out, spawns;
    struct picture_span *loads; /* owned */
    uint32_t load_count;
    uint64_t loads_seen;
    struct picture_place places[PICTURE_DEVICES_MAX];
    uint32_t place_count;
    uint64_t places_left_out;
    float *shares; /* [PICTURE_DEVICES_MAX][domain_count + 1][PICTURE_COLUMNS] of a column; owned */
    int failed;    /* -ENOMEM */
};

int picture_collect(struct picture *p, FILE *log, const char *name, const struct picture_options *o,
                    struct error *err);
void picture_free(struct picture *p);

/* Where a time falls, in columns: 0 to PICTURE_COLUMNS inside the picture, cut to that. */
double picture_column(const struct picture *p, uint64_t at_us);
/* Seconds since the log's first record. */
double picture_seconds(const struct picture *p, uint64_t at_us);
const float *picture_shares(const struct picture *p, uint32_t device, uint32_t domain);
/* The index of its lane; function_count: among all the others. */
uint32_t picture_lane_of(const struct picture *p, uint32_t function);

/* What the world tells, in the order of time. */
void picture_take_request(struct picture *p, const struct picture_request *r);
void picture_take_turn(struct picture *p, const struct picture_turn *t, struct route_domain domain);
void picture_take_worker(struct picture *p, struct picture_span *s, struct route_domain domain);
void picture_take_load(struct picture *p, const struct picture_span *s);
void picture_take_memory(struct picture *p, uint32_t place, const struct picture_world_place *m,
                         uint64_t until_us);

/* --- picture_lanes.c --- */

#define PICTURE_NO_ROW UINT32_MAX

/* One lane of requests, those at the same time below each other. */
struct picture_lane {
    uint32_t function;     /* index into the picture's */
    uint32_t first, count; /* of the order */
    uint32_t rows;
    uint32_t without_row; /* requests that found none free */
};

struct picture_lanes {
    uint32_t *order; /* indexes of requests, lane by lane, by arrival; owned */
    uint32_t *rows;  /* [request_count], of the request; PICTURE_NO_ROW; owned */
    struct picture_lane lanes[PICTURE_FUNCTIONS_MAX + 1];
    uint32_t lane_count;
    uint32_t total_rows;
    uint32_t drawn; /* requests with a row */
};

/* By the functions' numbers, those of one domain together. */
int picture_lanes_lay(struct picture_lanes *l, const struct picture *p);
void picture_lanes_free(struct picture_lanes *l);

/* --- picture_draw.c --- */

#define PICTURE_MARGIN 168.0 /* where columns begin, in units of the drawing */

/* An SVG document without its declaration: <svg ...> to </svg>. Its sums of ends and rows are of
 * what `l` laid out. */
void picture_draw(struct markup *out, const struct picture *p, const struct picture_lanes *l,
                  bool is_alone);

/* The paper as it fills, from the top down. */
struct picture_sheet {
    struct markup *out;
    const struct picture *p;
    const struct picture_lanes *lanes;
    double y;     /* where the next thing begins */
    double key_x; /* where the next key does, on the line above y */
};

/* In tenths: finer than a screen shows. */
double picture_tenths(double v);
double picture_x(const struct picture *p, uint64_t at_us);
/* Where a name of this class is written; the text is our own. */
void picture_put_label(struct picture_sheet *s, const char *class, double x, double y,
                       const char *format, ...) __attribute__((format(printf, 5, 6)));
/* What a panel is called and shows, and below it a line for keys. */
void picture_put_heading(struct picture_sheet *s, const char *name, const char *what);
void picture_put_key(struct picture_sheet *s, const char *class, const char *name);
/* The class of a domain's colour. */
const char *picture_colour(const struct picture *p, uint32_t domain, char ret[8]);
/* "function 3, owner 1". */
void picture_name_lane(const struct picture *p, uint32_t function, char ret[64]);
/* The median of the time to the first token, of those in the lane that had one; < 0: none had. */
double picture_first_s(const struct picture *p, const struct picture_lanes *l,
                       const struct picture_lane *lane);

/* --- picture_panels.c --- */

void picture_panel_requests(struct picture_sheet *s);
void picture_panel_processes(struct picture_sheet *s);
void picture_panel_turns(struct picture_sheet *s);
void picture_panel_loads(struct picture_sheet *s);
void picture_panel_memory(struct picture_sheet *s);

/* --- picture_page.c --- */

/* A page around the drawing: how to read it, and its numbers in a table. */
void picture_page(struct markup *out, const struct picture *p, const struct picture_lanes *l);
