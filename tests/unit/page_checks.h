/*
 * A page as a strict reader sees it: every tag closed in its order, every attribute quoted and said
 * once, no bare sign of HTML in a text, nothing from outside, only numbers where a drawing wants
 * numbers. A browser mends all of that in silence, so a test has to look.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define PAGE_DEPTH_MAX 32
#define PAGE_NAME_BYTES 16

struct page_reader {
    const char *start, *at;
    char open[PAGE_DEPTH_MAX][PAGE_NAME_BYTES];
    size_t depth;
};

static inline void page_refuse(const struct page_reader *r, const char *why)
{
    size_t before = (size_t)(r->at - r->start) < 60 ? (size_t)(r->at - r->start) : 60;
    fail_msg("%s at byte %zu: ...%.*s <<<>>> %.60s", why, (size_t)(r->at - r->start), (int)before,
             r->at - before, r->at);
}

static inline void page_read_entity(struct page_reader *r)
{
    static const char *const known[] = {"&amp;", "&lt;", "&gt;", "&quot;"};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strncmp(r->at, known[i], strlen(known[i])) == 0) {
            r->at += strlen(known[i]);
            return;
        }
    }
    page_refuse(r, "a bare &");
}

static inline void page_read_name(struct page_reader *r, char name[PAGE_NAME_BYTES])
{
    size_t len = strspn(r->at, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-");
    if (len == 0 || len >= PAGE_NAME_BYTES)
        page_refuse(r, "no name");
    memcpy(name, r->at, len);
    name[len] = '\0';
    r->at += len;
}

static inline bool page_name_in(const char *name, const char *const *names)
{
    for (; *names != NULL; names++) {
        if (strcmp(name, *names) == 0)
            return true;
    }
    return false;
}

static inline void page_read_attribute(struct page_reader *r, const char *tag)
{
    static const char *const drawn[] = {"d", "x", "y", "width", "height", "viewBox", NULL};
    char name[PAGE_NAME_BYTES];
    page_read_name(r, name);
    if (strncmp(r->at, "=\"", 2) != 0)
        page_refuse(r, "an attribute without a quoted value");
    r->at += 2;
    const char *value = r->at;
    while (*r->at != '"') {
        if (*r->at == '\0' || *r->at == '<' || *r->at == '>')
            page_refuse(r, "an attribute that does not end");
        if (*r->at == '&')
            page_read_entity(r);
        else
            r->at++;
    }
    size_t len = (size_t)(r->at - value);
    if (page_name_in(name, drawn) && strspn(value, "MmLlHhVvAaZz0123456789.,- ") != len)
        page_refuse(r, "no number in a drawing");
    if (strcmp(tag, "rect") == 0 && value[0] == '-' && name[0] != 'x' && name[0] != 'y')
        page_refuse(r, "a negative size");
    r->at++;
}

/* From behind '<' to behind '>'. */
static inline void page_read_tag(struct page_reader *r)
{
    static const char *const empty[] = {"meta", NULL};
    char name[PAGE_NAME_BYTES] = {0};
    if (*r->at == '/') {
        r->at++;
        page_read_name(r, name);
        if (r->depth == 0 || strcmp(r->open[r->depth - 1], name) != 0)
            page_refuse(r, "closes what is not open");
        r->depth--;
    } else {
        page_read_name(r, name);
        while (*r->at == ' ') {
            r->at++;
            page_read_attribute(r, name);
        }
        if (*r->at == '/') {
            r->at++;
        } else if (!page_name_in(name, empty)) {
            if (r->depth == PAGE_DEPTH_MAX)
                page_refuse(r, "too deep");
            memcpy(r->open[r->depth++], name, sizeof name);
        }
    }
    if (*r->at != '>')
        page_refuse(r, "a tag that does not end");
    r->at++;
}

static inline void page_check_html(const char *html)
{
    static const char doctype[] = "<!DOCTYPE html>\n";
    static const char *const foreign[] = {"<script", "http:", "https:", "//",
                                          "@import", "src=",  "href=",  NULL};
    struct page_reader r = {.start = html, .at = html};
    if (strncmp(html, doctype, strlen(doctype)) != 0)
        page_refuse(&r, "no DOCTYPE");
    for (r.at += strlen(doctype); *r.at != '\0';) {
        if (*r.at == '<') {
            r.at++;
            page_read_tag(&r);
        } else if (*r.at == '&') {
            page_read_entity(&r);
        } else {
            unsigned char c = (unsigned char)*r.at;
            if (c == '>' || (c < ' ' && c != '\n' && c != '\t'))
                page_refuse(&r, "a sign that a text must not hold");
            r.at++;
        }
    }
    if (r.depth > 0)
        page_refuse(&r, r.open[r.depth - 1]);
    for (const char *const *f = foreign; *f != NULL; f++) {
        if ((r.at = strstr(html, *f)) != NULL)
            page_refuse(&r, "something that has no place in a page");
    }
}

static inline size_t page_count(const char *html, const char *what)
{
    size_t count = 0;
    for (const char *at = html; (at = strstr(at, what)) != NULL; at += strlen(what))
        count++;
    return count;
}

/* The box around all places "x,y" that begin a stretch or follow in one, of the first path after
 * `from` whose tag begins with `tag`; how many there are. */
struct page_box {
    double left, right, top, bottom;
    size_t places, stretches;
};

static inline struct page_box page_path_box(const char *from, const char *tag)
{
    struct page_box box = {.left = 1e9, .right = -1e9, .top = 1e9, .bottom = -1e9};
    const char *at = strstr(from, tag);
    if (at == NULL)
        return box;
    at = strstr(at, " d=\"") + 4;
    while (*at != '"') {
        char *end;
        bool place = *at == 'M' || *at == ' ';
        box.stretches += *at == 'M';
        if (*at == 'm') /* the shape of a sign, up to the next */
            at += strcspn(at, "M\"");
        else if (!place)
            at++;
        if (!place)
            continue;
        double x = strtod(at + 1, &end);
        assert_true(*end == ',');
        double y = strtod(end + 1, &end);
        box.left = x < box.left ? x : box.left;
        box.right = x > box.right ? x : box.right;
        box.top = y < box.top ? y : box.top;
        box.bottom = y > box.bottom ? y : box.bottom;
        box.places++;
        at = end;
    }
    return box;
}
