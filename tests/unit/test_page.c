/* Pages: well-formed whatever is written on them, small whatever is drawn, whole or not there. */
#include "sim/page.h"

#include <errno.h>
#include <glob.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/rng.h"
#include "unit/page_checks.h"

#define NAN_ ((double)NAN)
#define INF_ ((double)INFINITY)

struct world {
    char dir[64];
    char path[96];
    struct page *page;
    char *html; /* of the last page that was read */
};

static int set_up(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    snprintf(w->dir, sizeof w->dir, "/tmp/sllora-page-XXXXXX");
    if (mkdtemp(w->dir) == NULL)
        return -1;
    snprintf(w->path, sizeof w->path, "%s/page.html", w->dir);
    *state = w;
    return 0;
}

static int tear_down(void **state)
{
    struct world *w = *state;
    unlink(w->path);
    int r = rmdir(w->dir); /* fails when something was left behind */
    free(w->html);
    free(w);
    return r;
}

static void open_page(struct world *w)
{
    struct error err = {0};
    if (page_open(&w->page, w->path, "A title", &err) < 0)
        fail_msg("%s", err.text);
}

static const char *read_page(struct world *w)
{
    FILE *f = fopen(w->path, "r");
    assert_non_null(f);
    struct stat st;
    assert_int_equal(fstat(fileno(f), &st), 0);
    free(w->html);
    w->html = calloc(1, (size_t)st.st_size + 1);
    assert_int_equal(fread(w->html, 1, (size_t)st.st_size, f), (size_t)st.st_size);
    fclose(f);
    return w->html;
}

/* Closes the page; its checked text, up to the next call. */
static const char *close_page(struct world *w)
{
    struct error err = {0};
    if (page_close(w->page, &err) < 0)
        fail_msg("%s", err.text);
    page_check_html(read_page(w));
    return w->html;
}

typedef void (*draw_fn)(struct page *p, const struct page_plot *plot);

static const char *draw_page(struct world *w, draw_fn draw, const struct page_plot *plot)
{
    open_page(w);
    draw(w->page, plot);
    return close_page(w);
}

static size_t names_in(const char *dir)
{
    char pattern[160];
    glob_t found;
    snprintf(pattern, sizeof pattern, "%s*", dir);
    size_t count = glob(pattern, 0, NULL, &found) == 0 ? found.gl_pathc : 0;
    globfree(&found);
    return count;
}

/* --- text --- */

static void test_text_is_shown_as_it_stands(void **state)
{
    struct world *w = *state;
    open_page(w);
    page_heading(w->page, "a < b & \"c\" > d</h2>");
    page_text(w->page, "%s is %d %%: <script>alert('x')</script>",
              "\xc3\xa9t\xc3\xa9 \xf0\x9f\x98\x80", 50);
    page_text(w->page,
              "bad: \xff|\xc3|\xc0\xaf|\xed\xa0\x80|\x01|\x7f|\xef\xbf\xbe|\xf4\x90\x80\x80.");
    const char *html = close_page(w);
    assert_non_null(strstr(html, "<h2>a &lt; b &amp; &quot;c&quot; &gt; d&lt;/h2&gt;</h2>"));
    assert_non_null(strstr(html, "<p>\xc3\xa9t\xc3\xa9 \xf0\x9f\x98\x80 is 50 %: &lt;script&gt;"));
#define BAD "\xef\xbf\xbd"
    assert_non_null(strstr(html, "<p>bad: " BAD "|" BAD "|" BAD BAD "|" BAD BAD BAD "|" BAD "|" BAD
                                 "|" BAD BAD BAD "|" BAD BAD BAD BAD ".</p>"));
#undef BAD
}

static void test_table(void **state)
{
    struct world *w = *state;
    static const char *const columns[] = {"Policy <1>", "p50", "Note"};
    static const char *const rows[][3] = {
        {"none", "1,234.5 ms", "3 of 5"}, {"7B", "-", "12"}, {"lru & co", "-1.2e-3", NULL}};
    open_page(w);
    page_table_begin(w->page, columns, 3);
    for (size_t i = 0; i < 3; i++)
        page_table_row(w->page, rows[i], 3);
    page_table_end(w->page);
    page_table_begin(w->page, columns, 2);
    page_table_end(w->page);
    const char *html = close_page(w);
    assert_non_null(strstr(html, "<tr><th scope=\"col\">Policy &lt;1&gt;</th>"
                                 "<th scope=\"col\" class=\"num\">p50</th>"
                                 "<th scope=\"col\">Note</th></tr></thead>"));
    assert_non_null(strstr(html, "<tr><td>none</td><td class=\"num\">1,234.5 ms</td>"
                                 "<td>3 of 5</td></tr>"));
    assert_non_null(strstr(html, "<td class=\"num\">-</td><td class=\"num\">12</td></tr>"));
    assert_non_null(strstr(html, "<td class=\"num\">-1.2e-3</td><td></td></tr>"));
    assert_int_equal(page_count(html, "<tr>"), 5);
}

/* --- plots --- */

/* Where the data of a drawing begins: after the grid. */
static const char *data_of(const char *html)
{
    const char *at = strstr(html, "<path class=\"g u\"");
    assert_non_null(at);
    return at;
}

static const double x5[] = {0, 1, 2, 3, 4};

static void test_lines(void **state)
{
    struct world *w = *state;
    static const double gap[] = {1, 2, NAN_, 4, 3}, lone[] = {NAN_, 2, NAN_, INF_, NAN_};
    struct page_series series[] = {{"a \"quoted\" <name>", x5, gap, 5}, {"lone", x5, lone, 5}};
    struct page_plot plot = {.title = "T & t",
                             .x_label = "x <s>",
                             .y_label = "y",
                             .series = series,
                             .series_count = 2,
                             .mark_y = 3.5,
                             .mark_name = "objective"};
    const char *html = draw_page(w, page_lines, &plot);
    assert_non_null(strstr(html, "<figcaption>T &amp; t</figcaption>"));
    assert_non_null(strstr(html, "aria-label=\"T &amp; t\""));
    assert_non_null(strstr(html, ">x &lt;s&gt;</text>"));
    struct page_box box = page_path_box(data_of(html), "<path class=\"l s0\"");
    assert_int_equal(box.stretches, 2);
    assert_int_equal(box.places, 4);
    box = page_path_box(data_of(html), "<path class=\"l s1\"");
    assert_int_equal(box.places, 1);
    /* four and one values that say themselves, and the mark */
    assert_int_equal(page_count(html, "<title>a &quot;quoted&quot; &lt;name&gt;: "), 4);
    assert_non_null(strstr(html, "<title>lone: 1, 2</title>"));
    assert_non_null(strstr(html, "<title>objective: 3.5</title>"));
    assert_int_equal(page_count(html, "<title>"), 1 + 4 + 1 + 1);
}

static void test_log_axis(void **state)
{
    struct world *w = *state;
    static const double y[] = {0, 1, 10, 1000, -5};
    struct page_series series = {"s", x5, y, 5};
    struct page_plot plot = {.title = "log",
                             .y_log = true,
                             .series = &series,
                             .series_count = 1,
                             .mark_y = 0,
                             .mark_name = "a mark below all"};
    const char *html = draw_page(w, page_lines, &plot);
    static const char *const names[] = {">1</text>", ">10</text>", ">100</text>", ">1k</text>"};
    for (size_t i = 0; i < 4; i++)
        assert_non_null(strstr(html, names[i]));
    assert_null(strstr(html, "a mark below all"));
    assert_int_equal(page_path_box(data_of(html), "<path class=\"l s0\"").places, 3);
    assert_int_equal(page_count(html, "<title>s: "), 3);
}

#define MANY 200000

static void fill_many(double *x, double *y)
{
    struct rng r;
    rng_seed(&r, 3);
    for (size_t i = 0; i < MANY; i++) {
        x[i] = (double)i;
        y[i] = 10 + rng_unit(&r);
    }
    y[123456] = 31;
    y[77777] = 2;
}

static void check_extremes(struct world *w, draw_fn draw, const char *tag, size_t bytes_max)
{
    double *x = calloc(MANY, sizeof *x), *y = calloc(MANY, sizeof *y);
    fill_many(x, y);
    double few_x[] = {0, 123456, 77777, MANY - 1}, few_y[] = {10, 31, 2, 10};
    struct page_series many = {"many", x, y, MANY}, few = {"few", few_x, few_y, 4};
    struct page_plot plot = {.series = &few, .series_count = 1, .mark_y = NAN_};
    struct page_box expected = page_path_box(data_of(draw_page(w, draw, &plot)), tag);
    size_t few_bytes = strlen(w->html);
    plot.series = &many;
    struct page_box box = page_path_box(data_of(draw_page(w, draw, &plot)), tag);
    size_t bytes = strlen(w->html) - few_bytes;
    if (fabs(box.top - expected.top) > 0.11 || fabs(box.bottom - expected.bottom) > 0.11)
        fail_msg("from %g to %g, expected %g to %g", box.top, box.bottom, expected.top,
                 expected.bottom);
    assert_true(box.places > 700);
    if (bytes > bytes_max)
        fail_msg("%zu values are %zu bytes", (size_t)MANY, bytes);
    free(x);
    free(y);
}

static void test_thinned_lines_keep_extremes(void **state)
{
    check_extremes(*state, page_lines, "<path class=\"l s0\"", 60000);
}

static void test_thinned_points_keep_extremes(void **state)
{
    struct world *w = *state;
    double x[1000], y[1000];
    struct rng r;
    rng_seed(&r, 5);
    for (size_t i = 0; i < 1000; i++) {
        x[i] = 100 + rng_unit(&r) * 1e-3; /* all in one spot but the ends */
        y[i] = 100 + rng_unit(&r) * 1e-3;
    }
    x[500] = 0;
    x[501] = 200;
    y[502] = 0;
    y[503] = 200;
    y[499] = 199; /* in the spot of the highest, and before it */
    struct page_series series = {"s", x, y, 1000};
    struct page_plot plot = {.series = &series, .series_count = 1, .mark_y = NAN_};
    struct page_box box =
        page_path_box(data_of(draw_page(w, page_points, &plot)), "<path class=\"d s0\"");
    if (box.places < 5 || box.places > 8)
        fail_msg("%zu points", box.places);
    assert_true(box.right - box.left > 650);
    assert_true(box.bottom - box.top > 269.8);
    series.count = 200; /* few enough to say their values */
    assert_int_equal(page_count(draw_page(w, page_points, &plot), "<title>s: "), 200);
}

static void draw_bars(struct page *p, const struct page_plot *plot)
{
    static const char *const groups[] = {"one & only", "two", "three", "four", "five"};
    page_bars(p, plot, groups);
}

static void test_bars(void **state)
{
    struct world *w = *state;
    static const double a[] = {1, 2, NAN_}, b[] = {4, 0, -3}, c[] = {7, 8, 9};
    struct page_series series[] = {{"a", NULL, a, 3}, {"b", NULL, b, 3}, {"c", NULL, c, 2}};
    struct page_plot plot = {.series = series, .series_count = 3, .mark_y = NAN_};
    const char *html = data_of(draw_page(w, draw_bars, &plot));
    assert_int_equal(page_count(html, "<rect"), 7);
    double last = -1;
    static const char *const order[] = {"one &amp; only, a: 1",
                                        "one &amp; only, b: 4",
                                        "one &amp; only, c: 7",
                                        "two, a: 2",
                                        "two, b: 0",
                                        "two, c: 8",
                                        "three, b: -3"};
    for (size_t i = 0; i < 7; i++) {
        char title[64];
        snprintf(title, sizeof title, "<title>%s</title>", order[i]);
        html = strstr(html, "<rect");
        assert_non_null(html);
        double x = strtod(strstr(html, " x=\"") + 4, NULL);
        assert_true(x > last);
        last = x;
        if (strncmp(strstr(html, "<title>"), title, strlen(title)) != 0)
            fail_msg("bar %zu is not %s", i, order[i]);
        html++;
    }
    plot.y_log = true; /* no bar for 0 and -3, one with a height for the lowest */
    html = data_of(draw_page(w, draw_bars, &plot));
    assert_int_equal(page_count(html, "<rect"), 5);
    assert_null(strstr(html, " height=\"0.0\""));
}

static void test_areas_are_stacked(void **state)
{
    struct world *w = *state;
    static const double a[] = {1, 1, 1, 1, 1}, b[] = {3, 3, NAN_, 3, 7};
    struct page_series series[] = {{"a", x5, a, 5}, {"b", x5, b, 5}};
    struct page_plot plot = {.series = series, .series_count = 2, .mark_y = NAN_};
    const char *html = data_of(draw_page(w, page_areas, &plot));
    struct page_box whole = page_path_box(html, "<path class=\"a\" fill=\"url(#f1)\"");
    struct page_box first = page_path_box(html, "<path class=\"a\" fill=\"url(#f0)\"");
    assert_int_equal(whole.stretches, 2);
    assert_int_equal(first.stretches, 2);
    assert_true(whole.bottom == first.bottom);
    double part = (first.bottom - first.top) / (whole.bottom - whole.top);
    assert_true(fabs(part - 1.0 / 8) < 0.002);
    /* the whole is drawn first, under its parts */
    assert_true(strstr(html, "url(#f1)") < strstr(html, "url(#f0)"));
    check_extremes(w, page_areas, "<path class=\"a\"", 60000);
}

/* The legend's rows stand above the data and inside the drawing, whatever the names. */
static void test_legend_is_beside_the_data(void **state)
{
    struct world *w = *state;
    static const double y[] = {1, 2, 3, 4, 5};
    struct page_series series[16];
    char names[16][128];
    for (size_t i = 0; i < 16; i++) {
        memset(names[i], 'W', sizeof names[i]);
        names[i][i * 8] = '\0';
        series[i] = (struct page_series){names[i], x5, y, 5};
    }
    struct page_plot plot = {
        .y_label = "y", .series = series, .series_count = 16, .mark_y = 3, .mark_name = "the mark"};
    const char *html = draw_page(w, page_lines, &plot);
    double top = page_path_box(data_of(html), "<path class=\"l s0\"").top;
    size_t entries = 0;
    double row = 0, end = 0;
    for (const char *at = html; (at = strstr(at, "<text class=\"n\"")) != NULL; at++, entries++) {
        double x = strtod(strstr(at, " x=\"") + 4, NULL);
        double y_text = strtod(strstr(at, " y=\"") + 4, NULL);
        const char *name = strchr(at, '>') + 1;
        assert_true(y_text > row || (y_text == row && x > end + 20));
        assert_true(y_text < top - 10);
        row = y_text;
        end = x + (double)(strchr(name, '<') - name) * 11;
        assert_true(end < 760);
    }
    assert_int_equal(entries, 16); /* the first has no name; the mark has one */
}

static void test_what_can_hardly_be_drawn(void **state)
{
    struct world *w = *state;
    static const double zero[5] = {0}, same[] = {7, 7, 7, 7, 7}, one[] = {42},
                        none[] = {NAN_, INF_, -INF_, NAN_, NAN_},
                        huge[] = {-1.7e308, 1.7e308, 1e300, -1e300, 1},
                        tiny[] = {5e-324, 1e-310, 1e-300, 0, -1e-305},
                        near[] = {1, 1 + 2.3e-16, 1, 1, 1}, below[] = {-1, -2, -3, -4, -5};
    struct page_series series[] = {
        {"", x5, zero, 5},       {"same", same, same, 5}, {"one", one, one, 1},
        {"none", x5, none, 5},   {"huge", huge, huge, 5}, {"tiny", tiny, tiny, 5},
        {"near", near, near, 5}, {NULL, x5, below, 5},    {"empty", NULL, NULL, 0}};
    static const draw_fn draws[] = {page_lines, page_points, draw_bars, page_areas};
    for (size_t i = 0; i < 4 * 4 * 9; i++) {
        struct page_plot plot = {.x_log = i & 1,
                                 .y_log = i >> 1 & 1,
                                 .series = &series[i / 16],
                                 .series_count = 1,
                                 .mark_y = i % 3 == 0 ? INF_ : 0};
        draw_page(w, draws[i >> 2 & 3], &plot);
    }
    for (size_t i = 0; i < 4; i++) {
        struct page_plot plot = {.series = series, .series_count = 0, .mark_y = 1};
        assert_non_null(strstr(draw_page(w, draws[i], &plot), "no data"));
        plot.series_count = i == 3 ? 2 : 9;
        assert_null(strstr(draw_page(w, draws[i], &plot), "no data"));
        plot = (struct page_plot){.series = &series[3], .series_count = 1, .mark_y = 1};
        assert_non_null(strstr(draw_page(w, draws[i], &plot), "no data"));
    }
}

static void test_many_groups(void **state)
{
    struct world *w = *state;
    double y[300];
    const char *groups[300];
    for (size_t i = 0; i < 300; i++) {
        y[i] = (double)(i % 7);
        groups[i] = "a group with a \xc3\xa9 name that is longer than anybody would wish it to be";
    }
    struct page_series series = {"s", NULL, y, 300};
    struct page_plot plot = {.series = &series, .series_count = 1, .mark_y = NAN_};
    open_page(w);
    page_bars(w->page, &plot, groups);
    const char *html = close_page(w);
    assert_int_equal(page_count(data_of(html), "<rect"), 300);
    size_t names = page_count(html, "rotate(-40)");
    assert_true(names > 10 && names < 60);
}

/* --- colours --- */

static double luminance(const char *hex)
{
    static const double weights[] = {0.2126, 0.7152, 0.0722};
    double sum = 0;
    for (size_t i = 0; i < 3; i++) {
        char two[3] = {hex[2 * i], hex[2 * i + 1], '\0'};
        double c = (double)strtoul(two, NULL, 16) / 255;
        sum += weights[i] * (c <= 0.04045 ? c / 12.92 : pow((c + 0.055) / 1.055, 2.4));
    }
    return sum;
}

static void test_colours_stand_out_from_the_paper(void **state)
{
    struct world *w = *state;
    open_page(w);
    const char *html = close_page(w);
    size_t colours = 0;
    const char *dark = strstr(strstr(html, ".s0{color:#") + 1, "@media");
    for (const char *at = html; (at = strstr(at, "{color:#")) != NULL; at++, colours++) {
        double paper = luminance(at < dark ? "ffffff" : "16191e"), c = luminance(at + 8);
        double contrast = (fmax(paper, c) + 0.05) / (fmin(paper, c) + 0.05);
        if (contrast < 3)
            fail_msg("%.7s has a contrast of %.2f", at + 7, contrast);
    }
    assert_int_equal(colours, 16);
}

/* --- files --- */

static void test_a_page_replaces_the_old_when_complete(void **state)
{
    struct world *w = *state;
    char link[96], part[128];
    open_page(w);
    page_text(w->page, "old");
    close_page(w);
    snprintf(link, sizeof link, "%s/link", w->dir);
    assert_int_equal(symlink("page.html", link), 0);

    struct error err = {0};
    assert_int_equal(page_open(&w->page, link, "new", &err), 0);
    page_text(w->page, "new");
    assert_non_null(strstr(read_page(w), "<p>old</p>"));
    assert_int_equal(page_close(w->page, &err), 0);
    assert_non_null(strstr(read_page(w), "<p>new</p>"));
    struct stat st;
    assert_int_equal(lstat(link, &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    unlink(link);
    snprintf(part, sizeof part, "%s/", w->dir);
    assert_int_equal(names_in(part), 1);
}

static void test_a_path_that_cannot_be_written(void **state)
{
    struct world *w = *state;
    char path[128], inside[80];
    struct error err = {0};
    struct page *page = NULL;
    snprintf(path, sizeof path, "%s/missing/page.html", w->dir);
    assert_int_equal(page_open(&page, path, "t", &err), -ENOENT);
    assert_null(page);
    assert_non_null(strstr(err.text, path));
    assert_int_equal(page_open(&page, w->dir, "t", &err), -EISDIR);
    assert_null(page);
    snprintf(inside, sizeof inside, "%s/", w->dir);
    assert_int_equal(names_in(inside), 0);
}

static void test_a_full_device(void **state)
{
    (void)state;
    struct error err = {0};
    struct page *page;
    assert_int_equal(page_open(&page, "/dev/full", "t", &err), 0);
    page_text(page, "text");
    assert_int_equal(page_close(page, &err), -ENOSPC);
    assert_non_null(strstr(err.text, "/dev/full"));
    struct stat st;
    assert_int_equal(stat("/dev/full", &st), 0);
    assert_true(S_ISCHR(st.st_mode));
    assert_int_equal(names_in("/dev/full"), 1);
}

/* A file that may not grow stands for a full disk: the old page stays, and nothing else. */
static void test_a_full_disk(void **state)
{
    struct world *w = *state;
    char inside[80];
    struct error err = {0};
    struct rlimit old;
    open_page(w);
    page_text(w->page, "old");
    close_page(w);
    open_page(w);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    struct rlimit small = {.rlim_cur = 100, .rlim_max = old.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    int r = page_close(w->page, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(r, -EFBIG);
    assert_non_null(strstr(err.text, w->path));
    assert_non_null(strstr(read_page(w), "<p>old</p>"));
    snprintf(inside, sizeof inside, "%s/", w->dir);
    assert_int_equal(names_in(inside), 1);
}

static void test_the_first_error_is_the_one_that_is_said(void **state)
{
    struct world *w = *state;
    static const double y[] = {1, 2, 3, 4, 5};
    struct page_series series[17];
    for (size_t i = 0; i < 17; i++)
        series[i] = (struct page_series){"s", x5, y, 5};
    struct page_plot plot = {.title = "too many", .series = series, .series_count = 17};
    struct error err = {0};
    char inside[80];
    char *line = malloc(1u << 20);
    memset(line, '<', (1u << 20) - 1);
    line[(1u << 20) - 1] = '\0';

    open_page(w);
    page_lines(w->page, &plot);
    for (size_t i = 0; i < 17; i++)
        page_text(w->page, "%s", line); /* of four bytes each on the page */
    assert_int_equal(page_close(w->page, &err), -E2BIG);
    assert_non_null(strstr(err.text, "\"too many\" has 17 series"));

    open_page(w);
    for (size_t i = 0; i < 17; i++)
        page_text(w->page, "%s", line);
    assert_int_equal(page_close(w->page, &err), -E2BIG);
    assert_non_null(strstr(err.text, "larger than 64 MiB"));

    open_page(w);
    const char *const cells[] = {line};
    page_table_begin(w->page, cells, 1);
    for (size_t i = 0; i < 17; i++)
        page_table_row(w->page, cells, 1);
    page_table_end(w->page);
    assert_int_equal(page_close(w->page, &err), -E2BIG);
    assert_non_null(strstr(err.text, "a table of the page"));
    free(line);
    snprintf(inside, sizeof inside, "%s/", w->dir);
    assert_int_equal(names_in(inside), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_text_is_shown_as_it_stands),
        TEST(test_table),
        TEST(test_lines),
        TEST(test_log_axis),
        TEST(test_thinned_lines_keep_extremes),
        TEST(test_thinned_points_keep_extremes),
        TEST(test_bars),
        TEST(test_areas_are_stacked),
        TEST(test_legend_is_beside_the_data),
        TEST(test_what_can_hardly_be_drawn),
        TEST(test_many_groups),
        TEST(test_colours_stand_out_from_the_paper),
        TEST(test_a_page_replaces_the_old_when_complete),
        TEST(test_a_path_that_cannot_be_written),
        TEST(test_a_full_device),
        TEST(test_a_full_disk),
        TEST(test_the_first_error_is_the_one_that_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
