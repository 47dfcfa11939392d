/* How connections live and end: pipelining, clients that vanish or dawdle, limits, who may connect,
 * and which sockets are opened at all. */
#include "gateway_world.h"

static void test_pipelining(void **state)
{
    struct world *w = *state;
    struct buf got;
    const struct infer_usage usage = {1, 1, 0};
    char bytes[4096];
    size_t len = 0;
    buf_init(&got, 1u << 20);
    int fd = dial(w);
    /* Answered in order, one at a time, also when the first ones take their time. */
    for (int i = 0; i < 3; i++)
        len += post(bytes + len, sizeof bytes - len, "/v1/completions",
                    "{\"model\":\"hold\",\"prompt\":\"x\"}");
    len += post(bytes + len, sizeof bytes - len, "/v1/completions",
                "{\"model\":\"say\",\"prompt\":\"x\"}");
    snprintf(bytes + len, sizeof bytes - len, "%s", GET("/healthz"));
    say(w, fd, bytes, strlen(bytes));
    for (int i = 1; i <= 3; i++) {
        char text[] = {'n', (char)('0' + i)};
        wait_for(w, &w->held_count, i);
        answer_text(w->held, text, 2);
        answer_end(w->held, &usage);
    }
    assert_true(hear(w, fd, &got, "\r\n\r\nok\n"));
    const char *at = got.data;
    static const char *const order[] = {"\"n1\"", "\"n2\"", "\"n3\"", "\"hello\"", "ok\n"};
    for (size_t i = 0; i < COUNT(order); i++) {
        at = strstr(at, order[i]);
        assert_non_null(at);
    }
    buf_free(&got);
    close(fd);
}

static void test_pipelined_flood(void **state)
{
    struct world *w = *state;
    struct buf got;
    buf_init(&got, 16u << 20);
    int fd = dial(w);
    struct buf flood;
    buf_init(&flood, 1u << 20);
    for (int i = 0; i < 5000; i++)
        assert_int_equal(buf_append_str(&flood, GET("/healthz")), 0);
    say(w, fd, flood.data, flood.len);
    shutdown(fd, SHUT_WR);
    /* Half closing may cut what was not begun, so only order and form are certain: but here all
     * bytes arrived before the end, and every answer is written before the end is seen. */
    hear(w, fd, &got, NULL);
    size_t count = 0;
    for (const char *at = got.data; (at = strstr(at, "\r\n\r\nok\n")) != NULL; at++)
        count++;
    assert_int_equal(count, 5000);
    buf_free(&flood);
    buf_free(&got);
    close(fd);
}

static void test_vanishing_clients(void **state)
{
    struct world *w = *state;
    int gone = 0;
    for (int stream = 0; stream < 2; stream++) {
        for (int how = 0; how < 4; how++) {
            int fd = dial(w);
            hold(w, fd, "/v1/completions", stream ? ",\"stream\":true" : "");
            if (how & 1)
                answer_text(w->held, "x", 1);
            turn(w);
            if (how & 2) { /* a reset instead of an orderly end */
                struct linger now = {1, 0};
                setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
            }
            close(fd);
            wait_for(w, &w->gone_count, ++gone);
        }
    }
    /* Also with a next request already sent, and when only the writing side is closed. */
    int fd = dial(w);
    hold(w, fd, "/v1/completions", "");
    say(w, fd, GET("/healthz"), strlen(GET("/healthz")));
    shutdown(fd, SHUT_WR);
    wait_for(w, &w->gone_count, ++gone);
    close(fd);
    for (int i = 0; i < 10; i++)
        turn(w);
    assert_int_equal(w->gone_count, gone);
    assert_null(w->held);
}

static void test_close_tells_handlers(void **state)
{
    struct world *w = *state;
    int fd = dial(w);
    hold(w, fd, "/v1/completions", "");
    gateway_close(w->gateway);
    w->gateway = NULL;
    assert_int_equal(w->gone_count, 1);
    close(fd);
}

static void test_stop_listening(void **state)
{
    struct world *w = *state;
    struct buf got;
    const struct infer_usage usage = {1, 1, 0};
    buf_init(&got, 1u << 20);
    int fd = dial(w);
    hold(w, fd, "/v1/completions", "");
    gateway_stop_listening(w->gateway);
    assert_int_equal(access(w->socket_path, F_OK), -1);
    answer_end(w->held, &usage);
    assert_true(hear(w, fd, &got, "\"cached_tokens\":0}}}"));
    buf_free(&got);
    close(fd);
}

static void test_slow_loris(void **state)
{
    struct world *w = *state;
    struct buf got;
    buf_init(&got, 1u << 20);
    w->limits.header_timeout_ms = 1;
    w->limits.body_timeout_ms = 1;
    w->limits.idle_timeout_ms = 1;
    reopen(w);
    static const char *const starts[] = {
        "GET /healthz HT", "GET /healthz HTTP/1.1\r\nHost: a\r\n",
        "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab"};
    for (size_t i = 0; i < COUNT(starts); i++) {
        int fd = dial(w);
        say(w, fd, starts[i], strlen(starts[i]));
        assert_true(hear(w, fd, &got, NULL));
        assert_memory_equal(got.data, "HTTP/1.1 408 ", 13);
        buf_clear(&got);
        close(fd);
    }
    int fd = dial(w); /* says nothing at all: closed without a word */
    assert_true(hear(w, fd, &got, NULL));
    assert_int_equal(got.len, 0);
    buf_free(&got);
    close(fd);
}

static void test_slow_reader(void **state)
{
    struct world *w = *state;
    struct buf got;
    char text[4096];
    buf_init(&got, 1u << 20);
    memset(text, 'x', sizeof text);
    w->limits.answer_bytes_max = 4u << 20;
    reopen(w);
    int other = dial(w);
    int fd = dial(w);
    hold(w, fd, "/v1/completions", ",\"stream\":true");
    /* Far more than sockets and limit hold together; the client never reads. */
    for (int i = 0; i < 32768 && w->gone_count == 0; i++) {
        answer_text(w->held, text, sizeof text);
        turn(w);
    }
    assert_int_equal(w->gone_count, 1);
    say(w, other, GET("/healthz"), strlen(GET("/healthz")));
    assert_true(hear(w, other, &got, "ok\n"));
    buf_free(&got);
    close(fd);
    close(other);
}

static void test_write_timeout(void **state)
{
    struct world *w = *state;
    char text[4096];
    memset(text, 'x', sizeof text);
    w->limits.write_timeout_ms = 1;
    reopen(w);
    int fd = dial(w);
    hold(w, fd, "/v1/completions", ",\"stream\":true");
    /* More than the sockets take; the client never reads. */
    for (int i = 0; i < 4096 && w->gone_count == 0; i++) {
        answer_text(w->held, text, sizeof text);
        turn(w);
    }
    wait_for(w, &w->gone_count, 1);
    close(fd);
}

static void test_answer_too_big(void **state)
{
    struct world *w = *state;
    struct buf got;
    char text[4096];
    buf_init(&got, 1u << 20);
    memset(text, 'x', sizeof text);
    w->limits.answer_bytes_max = 65536;
    reopen(w);
    int fd = dial(w);
    hold(w, fd, "/v1/completions", "");
    for (int i = 0; i < 100; i++)
        answer_text(w->held, text, sizeof text);
    assert_int_equal(w->gone_count, 0); /* never from inside a call */
    wait_for(w, &w->gone_count, 1);
    assert_true(hear(w, fd, &got, "}}"));
    assert_memory_equal(got.data, "HTTP/1.1 500 ", 13);
    assert_non_null(strstr(got.data, "\"code\":\"answer_too_large\""));
    /* The connection is fine. */
    buf_clear(&got);
    say(w, fd, GET("/healthz"), strlen(GET("/healthz")));
    assert_true(hear(w, fd, &got, "ok\n"));
    buf_free(&got);
    close(fd);
}

static void test_connection_limit(void **state)
{
    struct world *w = *state;
    struct buf got;
    int fds[4];
    buf_init(&got, 1u << 20);
    w->limits.connections_max = 2;
    reopen(w);
    fds[0] = dial(w);
    hold(w, fds[0], "/v1/completions", "");
    fds[1] = dial(w);
    say(w, fds[1], GET("/healthz"), strlen(GET("/healthz")));
    assert_true(hear(w, fds[1], &got, "ok\n"));
    buf_clear(&got);
    fds[2] = dial(w); /* the idle one makes room */
    assert_true(hear(w, fds[1], &got, NULL));
    struct exchange *first = w->held;
    hold(w, fds[2], "/v1/completions", "");
    fds[3] = dial(w); /* nobody is idle now */
    buf_clear(&got);
    assert_true(hear(w, fds[3], &got, NULL));
    assert_memory_equal(got.data, "HTTP/1.1 503 ", 13);
    const char *body = strstr(got.data, "\r\n\r\n") + 4;
    json_t *error = json_loads(body, 0, NULL);
    assert_non_null(error);
    json_decref(error);
    const char *length = strstr(got.data, "Content-Length: ");
    assert_int_equal(strtoul(length + 16, NULL, 10), strlen(body));
    exchange_error(first, 500, NULL, NULL, 0, "end");
    exchange_error(w->held, 500, NULL, NULL, 0, "end");
    for (int i = 0; i < 4; i++)
        close(fds[i]);
    buf_free(&got);
}

/* A client that sends on while it is refused must still be able to read why. */
static void test_refused_while_sending(void **state)
{
    struct world *w = *state;
    struct buf got;
    buf_init(&got, 1u << 20);
    int fd = dial(w);
    static const char head[] = "POST /v1/completions HTTP/1.1\r\nHost: a\r\n"
                               "Content-Length: 99999999\r\n\r\n";
    char junk[65536];
    memset(junk, '{', sizeof junk);
    say(w, fd, head, sizeof head - 1);
    for (int i = 0; i < 16; i++)
        say(w, fd, junk, sizeof junk);
    assert_true(hear(w, fd, &got, "}}"));
    assert_memory_equal(got.data, "HTTP/1.1 413 ", 13);
    buf_free(&got);
    close(fd);
}

/* Another user cannot connect; one to whom the file was opened by mistake is still refused. */
static void test_admin_peer(void **state)
{
    struct world *w = *state;
    if (geteuid() != 0)
        skip();
    assert_int_equal(chmod(w->directory, 0711), 0);
    for (int opened = 0; opened < 2; opened++) {
        if (opened)
            assert_int_equal(chmod(w->socket_path, 0666), 0);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            struct sockaddr_un a = {.sun_family = AF_UNIX};
            char answer[256] = "";
            snprintf(a.sun_path, sizeof a.sun_path, "%s", w->socket_path);
            if (setgroups(0, NULL) < 0 || setgid(65534) < 0 || setuid(65534) < 0)
                _exit(3);
            int fd = socket(AF_UNIX, SOCK_STREAM, 0);
            if (connect(fd, (struct sockaddr *)&a, sizeof a) < 0)
                _exit(errno == EACCES ? 1 : 4);
            if (send(fd, GET("/healthz"), strlen(GET("/healthz")), 0) < 0)
                _exit(5);
            recv(fd, answer, sizeof answer - 1, 0);
            _exit(strncmp(answer, "HTTP/1.1 403 ", 13) == 0 ? 2 : 6);
        }
        int status = 0;
        while (waitpid(pid, &status, WNOHANG) == 0)
            turn(w);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), opened ? 2 : 1);
    }
}

static int try_open(struct world *w, const char *listen_at, const char *socket_path,
                    struct error *err)
{
    struct gateway *g = NULL;
    struct gateway_options options = {.base = w->base,
                                      .listen = listen_at,
                                      .admin_socket = socket_path,
                                      .limits = gateway_limits_default};
    int r = gateway_open(&g, &options, err);
    gateway_close(g);
    return r;
}

static void test_admin_socket_file(void **state)
{
    struct world *w = *state;
    struct error err = {0};
    char path[sizeof((struct sockaddr_un *)0)->sun_path];
    assert_int_equal(try_open(w, NULL, w->socket_path, &err), -EADDRINUSE);
    assert_non_null(strstr(err.text, "another daemon"));
    /* What a killed daemon left behind is replaced. */
    snprintf(path, sizeof path, "%s/stale", w->directory);
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    close(fd);
    assert_int_equal(try_open(w, NULL, path, &err), 0);
    assert_int_equal(access(path, F_OK), -1);
    /* Anything else at that path is nobody's to remove. */
    fd = open(path, O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(try_open(w, NULL, path, &err), -EEXIST);
    unlink(path);
    assert_int_equal(try_open(w, NULL, "/nonexistent-directory/admin.sock", &err), -ENOENT);
    char long_path[200];
    memset(long_path, 'a', sizeof long_path - 1);
    long_path[sizeof long_path - 1] = '\0';
    assert_int_equal(try_open(w, NULL, long_path, &err), -ENAMETOOLONG);
}

static void test_addresses(void **state)
{
    struct world *w = *state;
    struct error err = {0};
    static const struct {
        const char *address;
        int code;
        const char *part;
    } table[] = {
        {"127.0.0.1:0", 0, ""},
        {"localhost:0", 0, ""},
        {"127.0.0.1", -EINVAL, "has no port"},
        {"127.0.0.1:", -EINVAL, "has no port"},
        {"127.0.0.1:65536", -EINVAL, "has no port"},
        {"127.0.0.1:8o", -EINVAL, "has no port"},
        {"::1:80", -EINVAL, "IPv4"},
        {"[::1:80", -EINVAL, "IPv4"},
        {"[1.2.3.4]:80", -EINVAL, "IPv6"},
        {"example.com:80", -EINVAL, "IPv4"},
        {"0.0.0.0:0", -EACCES, "API keys"},
        {"192.168.1.1:0", -EACCES, "API keys"},
        {"[::]:0", -EACCES, "API keys"},
    };
    for (size_t i = 0; i < COUNT(table); i++) {
        err.text[0] = '\0';
        int r = try_open(w, table[i].address, NULL, &err);
        if (r != table[i].code || strstr(err.text, table[i].part) == NULL)
            fail_msg("%s: %d %s", table[i].address, r, err.text);
    }
    char used[64];
    snprintf(used, sizeof used, "127.0.0.1:%u", gateway_port(w->gateway));
    assert_int_equal(try_open(w, used, NULL, &err), -EADDRINUSE);
    assert_non_null(strstr(err.text, "in use"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_pipelining),
        TEST(test_pipelined_flood),
        TEST(test_vanishing_clients),
        TEST(test_close_tells_handlers),
        TEST(test_stop_listening),
        TEST(test_slow_loris),
        TEST(test_slow_reader),
        TEST(test_write_timeout),
        TEST(test_answer_too_big),
        TEST(test_connection_limit),
        TEST(test_refused_while_sending),
        TEST(test_admin_peer),
        TEST(test_admin_socket_file),
        TEST(test_addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
