/* See picture.h. The file is written under a name of its own that then takes the place of the old
 * one: who opens the path sees one or the other. */
#include "sim/picture.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "sim/picture_parts.h"

#define PICTURE_BYTES_MAX (64u << 20)

void picture_options_default(struct picture_options *o)
{
    *o = (struct picture_options){.from_s = NAN, .to_s = NAN, .functions_max = PICTURE_FUNCTIONS};
}

int picture_make(FILE *log, const char *name, bool is_page, const struct picture_options *o,
                 struct markup *out, struct error *err)
{
    struct picture p;
    struct picture_lanes lanes;
    int r = picture_collect(&p, log, name, o, err);
    if (r < 0)
        return r;
    r = picture_lanes_lay(&lanes, &p);
    if (r == 0 && is_page)
        picture_page(out, &p, &lanes);
    else if (r == 0)
        picture_draw(out, &p, &lanes, true);
    if (r == 0)
        r = out->failed;
    picture_lanes_free(&lanes);
    picture_free(&p);
    return r < 0 ? error_set(err, r, "the picture of %s: %s", name, strerror(-r)) : 0;
}

static int save(const char *path, const struct buf *text, struct error *err)
{
    cleanup_free char *part = NULL;
    if (asprintf(&part, "%s.%d.part", path, (int)getpid()) < 0) {
        part = NULL;
        return error_set(err, -ENOMEM, "no memory for the picture");
    }
    FILE *f = fopen(part, "wxe");
    if (f == NULL)
        return error_set(err, -errno, "cannot write %s: %s", path, strerror(errno));
    bool is_written = fwrite(text->data, 1, text->len, f) == text->len;
    is_written &= fclose(f) == 0;
    if (is_written && rename(part, path) == 0)
        return 0;
    int r =
        error_set(err, -(errno != 0 ? errno : EIO), "cannot write %s: %s", path, strerror(errno));
    unlink(part);
    return r;
}

static bool ends_with(const char *path, const char *end)
{
    size_t len = strlen(path), more = strlen(end);
    return len > more && strcmp(path + len - more, end) == 0;
}

int picture_write(const char *log_path, const char *out_path, const struct picture_options *o,
                  struct error *err)
{
    bool is_page = ends_with(out_path, ".html");
    if (!is_page && !ends_with(out_path, ".svg"))
        return error_set(err, -EINVAL, "a picture is a file.svg or a file.html, not %s", out_path);
    FILE *log = fopen(log_path, "re");
    if (log == NULL)
        return error_set(err, -errno, "cannot open %s: %s", log_path, strerror(errno));
    struct markup out;
    markup_init(&out, PICTURE_BYTES_MAX);
    int r = picture_make(log, log_path, is_page, o, &out, err);
    fclose(log);
    if (r == 0)
        r = save(out_path, &out.text, err);
    markup_free(&out);
    return r;
}
