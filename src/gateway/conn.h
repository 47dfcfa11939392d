/*
 * What the files of the gateway share: the gateway, its connections, and the exchange that each
 * connection may carry. conn.c moves bytes and keeps the deadlines; routes.c finds out what a
 * request wants; exchange.c writes answers; gateway.c opens and closes.
 *
 * A connection is freed only by conn_settle, by its own socket's end or by a deadline, never by
 * what answers it: exchange_* functions note what happened and let the end of the loop's turn
 * settle it. So `gone` is never called from inside infer, admin or exchange_*.
 */
#pragma once

#include "base/buf.h"
#include "gateway/gateway.h"
#include "gateway/http.h"
#include "gateway/openai.h"

#include <event2/event.h>
#include <event2/event_struct.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

/* A connection has one deadline at a time. Those of one kind are equally long, so the list of each
 * kind is in order of time and only its head needs to be looked at. */
enum timer_kind {
    TIMER_NONE,
    TIMER_IDLE,
    TIMER_HEAD,
    TIMER_BODY,
    TIMER_COMMENT, /* a stream that waits for its first token says so */
    TIMER_WRITE,
    TIMER_LINGER,
    TIMER_COUNT,
};

enum conn_state {
    CONN_READING,   /* a request, or the wait for one */
    CONN_ANSWERING, /* a request is with the handlers */
    CONN_CLOSING,   /* the last answer is written, its bytes are going out */
    CONN_LINGERING, /* sent and shut down; reads until the client has seen it */
};

enum exchange_kind { EXCHANGE_INFER, EXCHANGE_ADMIN };

struct conn;

struct exchange {
    struct conn *conn; /* that it is part of */
    void *context;     /* the handler's */
    enum exchange_kind kind;
    bool open;    /* with the handler */
    bool stream;  /* the answer goes out piece by piece */
    bool begun;   /* the head of a streamed answer is written */
    bool waiting; /* a stream without its first token */
    bool too_big; /* more than may be held: ends with an error */
    struct infer_timing timing;
    struct openai_reply reply;
};

struct conn {
    struct gateway *gateway;
    int fd;
    struct event readable;
    struct event writable;
    bool writable_armed;
    bool admin;     /* came through the admin socket */
    bool permitted; /* admin: the peer's uid is the daemon's or root */
    bool broken;    /* nothing can be sent any more */
    bool rearm;     /* the deadline starts anew even if its kind stays */
    bool dirty;     /* in the gateway's list of those to settle */
    bool settling;  /* conn_settle is running or about to: no need to note a change */
    enum conn_state state;

    /* The request being answered. */
    bool keep_alive;
    bool http10;
    bool head_only;

    struct http http;
    struct buf pending; /* bytes of further requests, sent ahead */
    size_t pending_start;
    struct buf out;
    size_t out_start;
    struct exchange exchange;

    enum timer_kind timer;
    uint64_t deadline_us;
    TAILQ_ENTRY(conn) timer_link;
    TAILQ_ENTRY(conn) dirty_link;
};

TAILQ_HEAD(conn_list, conn);

#define GATEWAY_LISTENERS 2
#define GATEWAY_ID_POOL_BYTES 384u

struct gateway {
    struct event_base *base;
    struct gateway_limits limits;
    struct gateway_handlers handlers;
    struct listener {
        struct gateway *gateway;
        int fd;
        bool admin;
        struct event *event; /* owned */
    } listeners[GATEWAY_LISTENERS];
    char *admin_path; /* owned */
    uint16_t port;
    bool stopping;
    bool accept_paused; /* descriptors ran out; tried again at the next tick */
    uint32_t conn_count;
    struct conn_list timers[TIMER_COUNT]; /* every connection is in one of them */
    struct conn_list dirty;
    struct event *tick;   /* owned */
    struct event *settle; /* owned; settles the dirty connections at the end of a turn */
    struct buf scratch;   /* a body while its length is not known */
    char *read_buffer;    /* owned */
    uint8_t id_pool[GATEWAY_ID_POOL_BYTES];
    size_t id_pool_used;
};

#define CONN_READ_BYTES 65536u

/* Takes the descriptor. */
void conn_open(struct gateway *g, int fd, bool admin, bool permitted);
/* Ends it now; whoever is answering it hears `gone`. */
void conn_drop(struct conn *c);
/* Something changed: conn_settle will be called at the end of this turn. */
void conn_touch(struct conn *c);
void conn_settle(struct conn *c);
void conn_expire_all(struct gateway *g, uint64_t now_us);
size_t conn_unsent_bytes(const struct conn *c);

/* A whole answer; extra may be NULL. Ends the request. */
void conn_answer(struct conn *c, int status, const char *content_type, const char *extra,
                 const char *body, size_t body_bytes);
/* The same with OpenAI's error object. fatal: the connection cannot go on afterwards. */
void conn_answer_error(struct conn *c, int status, const char *code, const char *param,
                       const char *extra, const char *message, bool fatal);
/* The request has its whole answer in `out`. */
void conn_answer_done(struct conn *c);

/* The request in c->http is complete: answers it or hands it over. */
void route_request(struct conn *c);

void exchange_open(struct conn *c, enum exchange_kind kind, bool stream);
/* Tells the handler that nobody listens any more. */
void exchange_gone(struct exchange *x);
void exchange_comment(struct exchange *x);
/* The answer outgrew its limit. */
void exchange_end_too_big(struct exchange *x);
