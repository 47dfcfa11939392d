/* See sentencepiece.h: the tokenizer.json of a tokenizer.model, as LlamaTokenizer of transformers 5
 * builds it. The tests compare ids and text with that class. */
#include "model/sentencepiece.h"

#include "model/jsonfile.h"
#include "model/sentencepiece_model.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CONFIG "tokenizer_config.json"
#define DECODER "added_tokens_decoder"

enum named { NAMED_BOS, NAMED_EOS, NAMED_COUNT = 7 };

static const char *const named_keys[NAMED_COUNT] = {
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};
static const char *const named_defaults[NAMED_COUNT] = {"<s>", "</s>", "<unk>"};

struct writer {
    const struct sentencepiece *model;
    const json_t *config; /* or NULL */
    const json_t *map;    /* special_tokens_map.json, or NULL where it does not count */
    struct error *err;
    json_t *added;                  /* added_tokens of the tokenizer.json; a reference */
    json_t *seen;                   /* content -> id; a reference */
    uint32_t next;                  /* the id of the next token that is no piece */
    bool add[2];                    /* by enum named: at the beginning, at the end */
    bool prefix;                    /* a space before the text ... */
    bool every;                     /* ... and before all that stands between two added tokens */
    const char *named[NAMED_COUNT]; /* contents, or NULL */
};

static int out_of_memory(struct writer *w)
{
    return error_set(w->err, -ENOMEM, "tokenizer: out of memory");
}

/* --- what tokenizer_config.json says --- */

static int read_settings(struct writer *w)
{
    const char *class = NULL;
    bool split = false;
    w->prefix = true;
    int r = jsonfile_string(w->config, "tokenizer_class", &class, w->err);
    if (r == 0)
        r = jsonfile_bool(w->config, "add_bos_token", &w->add[NAMED_BOS], w->err);
    if (r == 0)
        r = jsonfile_bool(w->config, "add_eos_token", &w->add[NAMED_EOS], w->err);
    if (r == 0)
        r = jsonfile_bool(w->config, "add_prefix_space", &w->prefix, w->err);
    if (r == 0)
        r = jsonfile_bool(w->config, "legacy", &w->every, w->err);
    if (r == 0)
        r = jsonfile_bool(w->config, "split_special_tokens", &split, w->err);
    if (r < 0)
        return error_prefix(w->err, CONFIG);
    if (class != NULL && strcmp(class, "LlamaTokenizer") != 0 &&
        strcmp(class, "LlamaTokenizerFast") != 0) {
        char shown[JSONFILE_SHOW_BYTES];
        return error_set(w->err, -EINVAL,
                         CONFIG ": \"tokenizer_class\" %s with only a tokenizer.model is not "
                                "supported, only LlamaTokenizer: add a tokenizer.json",
                         jsonfile_printable(class, strlen(class), shown, sizeof shown));
    }
    if (jsonfile_get(w->config, "add_bos_token") == NULL)
        return error_set(w->err, -EINVAL,
                         CONFIG ": \"add_bos_token\" is missing: a tokenizer.model does not say "
                                "whether text begins with <s>, and versions of transformers "
                                "differ; add it, or a tokenizer.json");
    if (split)
        return error_set(w->err, -EINVAL, CONFIG ": \"split_special_tokens\" is not supported");
    if (w->prefix != w->model->dummy_prefix)
        return error_set(w->err, -EINVAL,
                         CONFIG ": \"add_prefix_space\" is %s, but normalizer_spec."
                                "add_dummy_prefix of tokenizer.model is %s",
                         w->prefix ? "true" : "false", w->prefix ? "false" : "true");
    return 0;
}

/* --- added tokens --- */

struct flags {
    bool lstrip;
    bool rstrip;
    bool single_word;
    bool normalized;
    bool special;
};

/* The content of "<s>" or {"content": "<s>", "rstrip": true, ...}; NULL: neither. */
static const char *read_token(const json_t *value, struct flags *ret)
{
    *ret = (struct flags){0};
    if (json_is_string(value))
        return json_string_value(value);
    ret->lstrip = json_is_true(json_object_get(value, "lstrip"));
    ret->rstrip = json_is_true(json_object_get(value, "rstrip"));
    ret->single_word = json_is_true(json_object_get(value, "single_word"));
    ret->normalized = json_is_true(json_object_get(value, "normalized"));
    ret->special = json_is_true(json_object_get(value, "special"));
    return json_string_value(json_object_get(value, "content"));
}

/* The first that names a content decides; `declared` is the id that it must get, or NONE. */
static int add(struct writer *w, const char *content, size_t len, struct flags f, uint32_t declared)
{
    char shown[JSONFILE_SHOW_BYTES];
    if (json_object_getn(w->seen, content, len) != NULL)
        return 0;
    const json_t *piece = json_object_getn(w->model->ids, content, len);
    uint32_t id = piece != NULL ? (uint32_t)json_integer_value(piece) : w->next++;
    if (declared != TOKENIZER_NONE && declared != id)
        return error_set(w->err, -EINVAL,
                         CONFIG ": \"" DECODER "\" gives the token \"%s\" the id %u, but behind "
                                "the pieces of tokenizer.model it is %u",
                         jsonfile_printable(content, len, shown, sizeof shown), declared, id);
    json_t *item = json_pack("{s:i, s:s%, s:b, s:b, s:b, s:b, s:b}", "id", (int)id, "content",
                             content, len, "single_word", f.single_word, "lstrip", f.lstrip,
                             "rstrip", f.rstrip, "normalized", f.normalized, "special", f.special);
    if (item == NULL || json_array_append_new(w->added, item) < 0 ||
        json_object_setn_new(w->seen, content, len, json_integer(id)) < 0)
        return out_of_memory(w);
    return 0;
}

static bool is_named(const struct writer *w, const char *content)
{
    for (size_t i = 0; i < NAMED_COUNT; i++)
        if (w->named[i] != NULL && strcmp(w->named[i], content) == 0)
            return true;
    return false;
}

static const json_t *named_value(const struct writer *w, const char *key)
{
    const json_t *value = json_object_get(w->map, key);
    return value != NULL ? value : json_object_get(w->config, key);
}

static int read_named(struct writer *w)
{
    struct flags f;
    for (size_t i = 0; i < NAMED_COUNT; i++) {
        const json_t *value = named_value(w, named_keys[i]);
        w->named[i] = value == NULL ? named_defaults[i] : read_token(value, &f);
        if (value != NULL && !json_is_null(value) &&
            (w->named[i] == NULL || w->named[i][0] == '\0'))
            return error_set(w->err, -EINVAL, CONFIG ": \"%s\" is not a token", named_keys[i]);
    }
    return 0;
}

static uint32_t piece_type(const struct writer *w, const char *content)
{
    const json_t *id = json_object_get(w->model->ids, content);
    return id != NULL ? (uint32_t)w->model->pieces[json_integer_value(id)].type : 0;
}

/* A token that is named outside the table of added tokens. Of a control piece the reference then
 * ignores the flags, so flags that would mean something are refused. */
static int add_value(struct writer *w, const char *key, const json_t *value)
{
    struct flags f;
    const char *content = read_token(value, &f);
    if (content == NULL || content[0] == '\0')
        return error_set(w->err, -EINVAL, CONFIG ": \"%s\" is not a token", key);
    uint32_t type = piece_type(w, content);
    bool control = type == PIECE_CONTROL || type == PIECE_USER_DEFINED;
    if (control && json_object_get(w->seen, content) == NULL &&
        (f.lstrip || f.rstrip || f.single_word))
        return error_set(w->err, -EINVAL,
                         CONFIG ": the strip flags of \"%s\" belong into \"" DECODER "\"", key);
    if (control)
        f.normalized = false;
    f.special = true;
    return add(w, content, strlen(content), f, TOKENIZER_NONE);
}

static int add_named(struct writer *w)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < NAMED_COUNT; i++) {
        const json_t *value = named_value(w, named_keys[i]);
        struct flags f = {.special = true};
        if (value != NULL && !json_is_null(value))
            r = add_value(w, named_keys[i], value);
        else if (w->named[i] != NULL)
            r = add(w, w->named[i], strlen(w->named[i]), f, TOKENIZER_NONE);
    }
    return r;
}

struct declared {
    uint32_t id;
    const json_t *value;
};

static int compare_declared(const void *a, const void *b)
{
    const struct declared *x = a, *y = b;
    return x->id < y->id ? -1 : x->id > y->id;
}

static int add_declared(struct writer *w, const struct declared *d)
{
    struct flags f;
    const char *content = read_token(d->value, &f);
    if (!json_is_object(d->value) || content == NULL || content[0] == '\0')
        return error_set(w->err, -EINVAL, CONFIG ": \"" DECODER "\": %u is not a token", d->id);
    f.special |= is_named(w, content);
    return add(w, content, strlen(content), f, d->id);
}

static int add_decoder(struct writer *w, json_t *decoder)
{
    size_t count = 0;
    const char *key;
    json_t *value;
    int r = 0;
    if (!json_is_object(decoder) || json_object_size(decoder) > BLOB_ADDED_MAX)
        return error_set(w->err, -EINVAL, CONFIG ": \"" DECODER "\" is not a table of up to %u",
                         BLOB_ADDED_MAX);
    struct declared *all = calloc(json_object_size(decoder) + 1, sizeof all[0]);
    if (all == NULL)
        return out_of_memory(w);
    json_object_foreach(decoder, key, value)
    {
        char *end;
        unsigned long id = strtoul(key, &end, 10);
        if (key[0] < '0' || key[0] > '9' || *end != '\0' || id >= BLOB_VOCAB_MAX) {
            r = error_set(w->err, -EINVAL, CONFIG ": \"" DECODER "\" has a key that is no id");
            break;
        }
        all[count++] = (struct declared){(uint32_t)id, value};
    }
    qsort(all, count, sizeof all[0], compare_declared);
    for (size_t i = 0; r == 0 && i < count; i++)
        r = add_declared(w, &all[i]);
    free(all);
    return r;
}

/* A list of more special tokens takes the place of the model's own control pieces in the reference;
 * where that would lose one, it is refused. */
static int add_pieces(struct writer *w)
{
    const json_t *list = jsonfile_get(w->config, "extra_special_tokens");
    int r = 0;
    if (json_array_size(list) == 0 && jsonfile_get(w->config, "additional_special_tokens") != NULL)
        list = jsonfile_get(w->config, "additional_special_tokens");
    for (size_t i = 0; r == 0 && i < json_array_size(list); i++)
        r = add_value(w, "additional_special_tokens", json_array_get(list, i));
    for (uint32_t id = 0; r == 0 && id < w->model->piece_count; id++) {
        const struct piece *p = &w->model->pieces[id];
        struct flags f = {.special = p->type == PIECE_CONTROL};
        if (p->type != PIECE_CONTROL && p->type != PIECE_USER_DEFINED)
            continue;
        if (json_is_array(list) && json_object_getn(w->seen, p->text.p, p->text.len) == NULL)
            return error_set(w->err, -EINVAL,
                             CONFIG ": the list of special tokens lacks piece %u of "
                                    "tokenizer.model, which is one: add it to \"" DECODER "\"",
                             id);
        r = add(w, p->text.p, p->text.len, f, TOKENIZER_NONE);
    }
    return r;
}

/* Tokens that a checkpoint names in a way that this file does not follow. */
static int check_seen(struct writer *w, const char *file, const char *key, const json_t *value)
{
    struct flags f;
    const char *content = read_token(value, &f);
    if (content == NULL || json_object_get(w->seen, content) != NULL)
        return 0;
    char shown[JSONFILE_SHOW_BYTES];
    return error_set(w->err, -EINVAL,
                     "%s: the token of \"%s\" is not in \"" DECODER "\" of " CONFIG, file,
                     jsonfile_printable(key, strlen(key), shown, sizeof shown));
}

static int check_others(struct writer *w, const json_t *object, const char *file)
{
    json_t *all = (json_t *)(uintptr_t)object; /* the iterator wants it mutable */
    const char *key;
    json_t *value;
    int r = 0;
    json_object_foreach(all, key, value)
    {
        size_t len = strlen(key);
        if (len > 6 && strcmp(key + len - 6, "_token") == 0)
            r = check_seen(w, file, key, value);
        for (size_t i = 0; r == 0 && strstr(key, "_special_tokens") && i < json_array_size(value);
             i++)
            r = check_seen(w, file, key, json_array_get(value, i));
        if (r < 0)
            return r;
    }
    return 0;
}

static int collect_added(struct writer *w)
{
    json_t *decoder = jsonfile_get(w->config, DECODER);
    if (decoder != NULL)
        w->map = NULL; /* it is older, and then not read */
    int r = read_named(w);
    if (r == 0 && decoder != NULL)
        r = add_decoder(w, decoder);
    if (r == 0)
        r = add_named(w);
    if (r == 0)
        r = add_pieces(w);
    if (r == 0)
        r = check_others(w, w->config, CONFIG);
    return r < 0 ? r : check_others(w, w->map, "special_tokens_map.json");
}

/* --- the file --- */

static int put_string(struct buf *out, const char *p, size_t len)
{
    int r = buf_append_char(out, '"');
    if (r == 0)
        r = buf_append_json(out, p, len);
    return r == 0 ? buf_append_char(out, '"') : r;
}

static int put_vocab(const struct sentencepiece *s, struct buf *out)
{
    int r = 0;
    for (uint32_t id = 0; r == 0 && id < s->piece_count; id++) {
        r = put_string(out, s->pieces[id].text.p, s->pieces[id].text.len);
        if (r == 0)
            r = buf_printf(out, ":%u%s", id, id + 1 < s->piece_count ? "," : "");
    }
    return r;
}

/* Every way to make a piece of two, in the order of what they make, the shortest left half first.
 */
static int put_merges(const struct sentencepiece *s, struct buf *out)
{
    const char *comma = "";
    int r = 0;
    for (uint32_t id = 0; r == 0 && id < s->piece_count; id++) {
        struct text t = s->pieces[id].text;
        for (size_t cut = 1; r == 0 && cut < t.len; cut++) {
            if (((uint8_t)t.p[cut] & 0xc0) == 0x80 || json_object_getn(s->ids, t.p, cut) == NULL ||
                json_object_getn(s->ids, t.p + cut, t.len - cut) == NULL)
                continue;
            r = buf_printf(out, "%s[", comma);
            if (r == 0)
                r = put_string(out, t.p, cut);
            if (r == 0)
                r = buf_append_char(out, ',');
            if (r == 0)
                r = put_string(out, t.p + cut, t.len - cut);
            if (r == 0)
                r = buf_append_char(out, ']');
            comma = ",";
        }
    }
    return r;
}

/* {"type": "TemplateProcessing", ...} around the text. */
static json_t *make_template(struct writer *w)
{
    json_t *single = json_array(), *special = json_object();
    for (size_t i = 0; i < 2; i++) {
        const char *name = w->add[i] ? w->named[i] : NULL;
        if (name != NULL) {
            json_array_append_new(
                single, json_pack("{s:{s:s, s:i}}", "SpecialToken", "id", name, "type_id", 0));
            json_object_set_new(
                special, name,
                json_pack("{s:s, s:[O]}", "id", name, "ids", json_object_get(w->seen, name)));
        }
        if (i == NAMED_BOS)
            json_array_append_new(single,
                                  json_pack("{s:{s:s, s:i}}", "Sequence", "id", "A", "type_id", 0));
    }
    return json_pack("{s:s, s:o, s:o}", "type", "TemplateProcessing", "single", single,
                     "special_tokens", special);
}

static int put_json(const json_t *value, struct buf *out)
{
    char *text = value != NULL ? json_dumps(value, JSON_COMPACT) : NULL;
    int r = text != NULL ? buf_append_str(out, text) : -ENOMEM;
    free(text);
    return r;
}

static int put_all(struct writer *w, struct buf *out)
{
    json_t *template = make_template(w);
    const char *scheme = !w->prefix ? "never" : w->every ? "always" : "first";
    int r = buf_append_str(out, "{\"version\":\"1.0\",\"added_tokens\":");
    if (r == 0)
        r = put_json(w->added, out);
    if (r == 0)
        r = buf_printf(out,
                       ",\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"Metaspace\","
                       "\"replacement\":\"\xe2\x96\x81\",\"prepend_scheme\":\"%s\","
                       "\"split\":false},\"post_processor\":",
                       scheme);
    if (r == 0)
        r = put_json(template, out);
    if (r == 0)
        r = buf_printf(out,
                       ",\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\","
                       "\"pattern\":{\"String\":\"\xe2\x96\x81\"},\"content\":\" \"},"
                       "{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}%s]},"
                       "\"model\":{\"type\":\"BPE\",\"fuse_unk\":true,\"byte_fallback\":true,"
                       "\"vocab\":{",
                       w->prefix ? ",{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}"
                                 : "");
    if (r == 0)
        r = put_vocab(w->model, out);
    if (r == 0)
        r = buf_append_str(out, "},\"merges\":[");
    if (r == 0)
        r = put_merges(w->model, out);
    json_decref(template);
    return r == 0 ? buf_append_str(out, "]}}") : r;
}

int sentencepiece_to_json(const void *model, size_t len, const json_t *config, const json_t *map,
                          struct buf *ret_json, struct error *err)
{
    struct sentencepiece s;
    int r = sentencepiece_read(&s, model, len, err);
    if (r < 0) {
        error_prefix(err, "tokenizer.model");
        return r;
    }
    struct writer w = {.model = &s, .config = config, .map = map, .err = err};
    w.added = json_array();
    w.seen = json_object();
    w.next = s.piece_count;
    r = w.added == NULL || w.seen == NULL ? out_of_memory(&w) : read_settings(&w);
    if (r == 0)
        r = collect_added(&w);
    if (r == 0) {
        r = put_all(&w, ret_json);
        if (r < 0)
            error_set(err, r, "tokenizer.model: its tokenizer.json is too large");
    }
    if (r < 0)
        buf_clear(ret_json);
    json_decref(w.added);
    json_decref(w.seen);
    sentencepiece_free(&s);
    return r;
}
