/* See tokenizer.h: opening a blob, and looking tokens up in it. The blob is used where it lies;
 * opening checks bounds and compiles the few patterns, nothing grows with the vocabulary. */
#include "model/tokenizer.h"

#include "model/tokenizer_blob.h"
#include "model/tokenizer_pattern.h"
#include "model/tokenizer_unicode.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    uint32_t record_bytes;
    uint32_t count_max;
} section_kinds[SECTION_COUNT] = {
    [SECTION_POOL] = {1, TOKENIZER_BLOB_BYTES_MAX},
    [SECTION_TOKENS] = {sizeof(struct blob_token), BLOB_VOCAB_MAX},
    [SECTION_NAMES] = {sizeof(uint32_t), 4 * BLOB_VOCAB_MAX},
    [SECTION_MERGES] = {sizeof(struct blob_merge), 4 * BLOB_MERGES_MAX},
    [SECTION_ADDED_RAW] = {sizeof(struct blob_added), BLOB_ADDED_MAX},
    [SECTION_ADDED_NORM] = {sizeof(struct blob_added), BLOB_ADDED_MAX},
    [SECTION_NORMALIZE] = {sizeof(struct blob_step), BLOB_STEPS_MAX},
    [SECTION_SPLIT] = {sizeof(struct blob_step), BLOB_STEPS_MAX},
    [SECTION_PREFIX] = {sizeof(uint32_t), BLOB_AFFIX_MAX},
    [SECTION_SUFFIX] = {sizeof(uint32_t), BLOB_AFFIX_MAX},
    [SECTION_PIECES] = {sizeof(struct blob_added), BLOB_VOCAB_MAX},
    [SECTION_SCORES] = {sizeof(struct blob_score), BLOB_VOCAB_MAX + 1},
};

/* What \w is to the matcher of added tokens. */
static const char word_pattern[] =
    "[\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{200c}\\x{200d}\\x{24b6}-\\x{24e9}"
    "\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}]";

static bool is_power_of_two(uint32_t n)
{
    return n != 0 && (n & (n - 1)) == 0;
}

static int broken(struct error *err, const char *what)
{
    return error_set(err, -EINVAL, "tokenizer image: %s; pack the backbone again", what);
}

static int check_header(const void *blob, size_t bytes, struct error *err)
{
    const struct blob_header *h = blob;
    if (bytes < sizeof *h || (uintptr_t)blob % 4 != 0)
        return broken(err, "too short or not aligned");
    if (h->magic != BLOB_MAGIC || h->version != BLOB_VERSION)
        return broken(err, "not a tokenizer, or of another version");
    if (h->bytes > bytes || h->bytes < sizeof *h)
        return broken(err, "truncated");
    for (size_t i = 0; i < SECTION_COUNT; i++) {
        const struct blob_section_range *s = &h->sections[i];
        uint64_t size = (uint64_t)s->count * section_kinds[i].record_bytes;
        if (s->count > section_kinds[i].count_max || s->offset % 4 != 0 || s->offset < sizeof *h ||
            s->offset > h->bytes || size > h->bytes - s->offset)
            return broken(err, "a section lies outside");
    }
    if (h->sections[SECTION_TOKENS].count == 0 ||
        !is_power_of_two(h->sections[SECTION_NAMES].count) ||
        !is_power_of_two(h->sections[SECTION_MERGES].count))
        return broken(err, "an empty or misshapen table");
    if (h->strip_count > BLOB_STRIP_MAX || h->strip_char > 0x10ffff || h->metaspace > 0x10ffff)
        return broken(err, "a decoder's value is out of range");
    return 0;
}

static void place_sections(struct tokenizer *t, const void *blob)
{
    const char *base = blob;
    const struct blob_header *h = blob;
    const void *at[SECTION_COUNT];
    for (size_t i = 0; i < SECTION_COUNT; i++)
        at[i] = base + h->sections[i].offset;
    t->header = h;
    t->pool = at[SECTION_POOL];
    t->pool_bytes = h->sections[SECTION_POOL].count;
    t->tokens = at[SECTION_TOKENS];
    t->names = at[SECTION_NAMES];
    t->merges = at[SECTION_MERGES];
    t->added[0] = at[SECTION_ADDED_RAW];
    t->added[1] = at[SECTION_ADDED_NORM];
    t->normalize = at[SECTION_NORMALIZE];
    t->split = at[SECTION_SPLIT];
    t->prefix = at[SECTION_PREFIX];
    t->suffix = at[SECTION_SUFFIX];
    t->pieces = at[SECTION_PIECES];
    t->scores = at[SECTION_SCORES];
}

/* Added tokens must be whole characters: text is cut at their borders and then matched unchecked.
 * Also builds the index by first byte. */
static int check_added(struct tokenizer *t, size_t which, bool *single_word, struct error *err)
{
    uint32_t count = blob_count(t, which == 0 ? SECTION_ADDED_RAW : SECTION_ADDED_NORM);
    unsigned at = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct blob_added *a = &t->added[which][i];
        struct text text = blob_text(t, a->offset, a->len);
        if (text.len == 0 || text.len > BLOB_ADDED_BYTES_MAX || !utf8_is_valid(text.p, text.len) ||
            a->id >= tokenizer_vocab_count(t))
            return broken(err, "a bad added token");
        unsigned first = (uint8_t)text.p[0];
        if (first + 1 < at)
            return broken(err, "added tokens out of order");
        while (at <= first)
            t->added_first[which][at++] = i;
        *single_word |= (a->flags & ADDED_SINGLE_WORD) != 0;
    }
    while (at <= 256)
        t->added_first[which][at++] = count;
    return 0;
}

/* Finds where the pieces of each first byte begin without a walk through all of them. Pieces out
 * of order are then not found, and nothing worse. */
static void index_pieces(struct tokenizer *t)
{
    uint32_t count = blob_count(t, SECTION_PIECES), low = 0;
    for (unsigned first = 0; first <= 256; first++) {
        uint32_t high = count;
        while (low < high) {
            uint32_t mid = low + (high - low) / 2;
            struct text text = blob_text(t, t->pieces[mid].offset, t->pieces[mid].len);
            if (text.len == 0 || (uint8_t)text.p[0] < first)
                low = mid + 1;
            else
                high = mid;
        }
        t->piece_first[first] = low;
    }
}

static bool is_one_char(struct text s)
{
    uint32_t c;
    return s.len > 0 && utf8_next(s.p, s.len, &c) == (int)s.len;
}

static int check_step(struct tokenizer *t, const struct blob_step *s, bool splitting,
                      pcre2_code **code, struct error *err)
{
    struct text a = blob_text(t, s->a_offset, s->a_len);
    struct text b = blob_text(t, s->b_offset, s->b_len);
    if (s->kind == 0 || s->kind >= STEP_KIND_COUNT || splitting != (s->kind >= STEP_SPLIT))
        return broken(err, "an unknown step");
    if (a.len != s->a_len || b.len != s->b_len || a.len > BLOB_STRING_BYTES_MAX * 4 ||
        b.len > BLOB_STRING_BYTES_MAX * 4 || !utf8_is_valid(a.p, a.len) ||
        !utf8_is_valid(b.p, b.len))
        return broken(err, "a step with a bad text");
    if (s->kind == STEP_FORM && s->flags > UNICODE_NFKD)
        return broken(err, "an unknown normal form");
    if (s->kind == STEP_METASPACE && !is_one_char(b))
        return broken(err, "a metaspace that is not one character");
    bool plain = s->kind == STEP_REPLACE && (s->flags & 1) != 0;
    if (plain && a.len == 0)
        return broken(err, "a replacement of nothing");
    if (s->kind == STEP_SPLIT && ((s->flags & ~STEP_SPLIT_INVERT) >= SPLIT_BEHAVIOR_COUNT))
        return broken(err, "an unknown way to split");
    if (s->kind != STEP_SPLIT && (s->kind != STEP_REPLACE || plain))
        return 0;
    *code = pattern_compile(a.p, a.len, err);
    return *code == NULL ? -EINVAL : 0;
}

static int check_fast_pattern(struct tokenizer *t, const struct blob_step *s, pcre2_code **code,
                              struct error *err)
{
    struct text b = blob_text(t, s->b_offset, s->b_len);
    if (s->kind == STEP_SPLIT)
        *code = pattern_compile(b.p, b.len, err);
    return s->kind == STEP_SPLIT && *code == NULL ? -EINVAL : 0;
}

static int check_steps(struct tokenizer *t, struct error *err)
{
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < blob_count(t, SECTION_NORMALIZE); i++)
        r = check_step(t, &t->normalize[i], false, &t->normalize_code[i], err);
    for (uint32_t i = 0; r == 0 && i < blob_count(t, SECTION_SPLIT); i++)
        r = check_step(t, &t->split[i], true, &t->split_code[i][1], err);
    for (uint32_t i = 0; r == 0 && i < blob_count(t, SECTION_SPLIT); i++)
        r = check_fast_pattern(t, &t->split[i], &t->split_code[i][0], err);
    return r;
}

static int compile_word(struct tokenizer *t, struct error *err)
{
    struct buf pattern;
    buf_init(&pattern, BLOB_STRING_BYTES_MAX * 4);
    int r = pattern_translate(word_pattern, strlen(word_pattern), true, &pattern, err);
    if (r == 0) {
        t->word_code = pattern_compile(pattern.data, pattern.len, err);
        r = t->word_code == NULL ? -EINVAL : 0;
    }
    buf_free(&pattern);
    return r;
}

static int prepare(struct tokenizer *t, const void *blob, struct error *err)
{
    bool single_word = false;
    place_sections(t, blob);
    index_pieces(t);
    int r = check_added(t, 0, &single_word, err);
    if (r == 0)
        r = check_added(t, 1, &single_word, err);
    if (r == 0)
        r = check_steps(t, err);
    if (r == 0 && single_word)
        r = compile_word(t, err);
    for (uint32_t i = 0; r == 0 && i < blob_count(t, SECTION_PREFIX); i++)
        if (t->prefix[i] >= tokenizer_vocab_count(t))
            r = broken(err, "a bad template");
    for (uint32_t i = 0; r == 0 && i < blob_count(t, SECTION_SUFFIX); i++)
        if (t->suffix[i] >= tokenizer_vocab_count(t))
            r = broken(err, "a bad template");
    for (int c = 0; r == 0 && c < 128; c++) {
        char text = (char)c;
        t->ascii_ids[c] = tokenizer_find_word(t, &text, 1);
    }
    return r;
}

int tokenizer_open(struct tokenizer **ret, const void *blob, size_t bytes, struct error *err)
{
    int r = check_header(blob, bytes, err);
    if (r < 0)
        return r;
    struct tokenizer *t = calloc(1, sizeof *t);
    if (t == NULL)
        return error_set(err, -ENOMEM, "tokenizer: out of memory");
    r = prepare(t, blob, err);
    if (r < 0) {
        tokenizer_close(t);
        return r;
    }
    *ret = t;
    return 0;
}

void tokenizer_close(struct tokenizer *t)
{
    if (t == NULL)
        return;
    for (size_t i = 0; i < BLOB_STEPS_MAX; i++) {
        pcre2_code_free(t->normalize_code[i]);
        pcre2_code_free(t->split_code[i][0]);
        pcre2_code_free(t->split_code[i][1]);
    }
    pcre2_code_free(t->word_code);
    free(t);
}

/* --- looking up --- */

uint32_t blob_hash(const char *p, size_t len)
{
    uint64_t h = 0x9e3779b97f4a7c15u ^ len;
    while (len >= 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        h = (h ^ word) * 0xff51afd7ed558ccdu;
        h ^= h >> 32;
        p += 8;
        len -= 8;
    }
    uint64_t tail = 0;
    memcpy(&tail, p, len);
    h = (h ^ tail) * 0xc4ceb9fe1a85ec53u;
    h = (h ^ h >> 32) * 0xff51afd7ed558ccdu; /* the last bytes reach every bit of the result */
    return (uint32_t)(h >> 32);
}

struct prefixes prefixes_of(const struct tokenizer *t, const struct blob_added *items,
                            const uint32_t first[257], const char *p, size_t len)
{
    uint8_t byte = (uint8_t)p[0];
    return (struct prefixes){t, items, first[byte], first[byte + 1], 1, p, len};
}

const struct blob_added *prefixes_next(struct prefixes *s)
{
    while (s->low < s->high) {
        const struct blob_added *a = &s->items[s->low];
        bool whole = a->len == s->depth; /* the shortest of its range comes first */
        uint32_t bounds[2] = {s->high, s->high};
        /* Narrows to the texts whose next byte is at least this, and not more than this. */
        for (int side = 0; s->depth < s->len && side < 2; side++) {
            uint32_t from = side == 0 ? s->low : bounds[0], to = s->high;
            while (from < to) {
                uint32_t mid = from + (to - from) / 2;
                struct text text = blob_text(s->t, s->items[mid].offset, s->items[mid].len);
                int next = text.len > s->depth ? (uint8_t)text.p[s->depth] : -1;
                if (next < (int)(uint8_t)s->p[s->depth] + side)
                    from = mid + 1;
                else
                    to = mid;
            }
            bounds[side] = from;
        }
        s->low = bounds[0];
        s->high = bounds[1];
        s->depth++;
        if (whole)
            return a;
    }
    return NULL;
}

static bool text_equals(struct text a, const char *p, size_t len)
{
    return a.len == len && memcmp(a.p, p, len) == 0;
}

/* The token with this key; and with this text, when given; and with all of these flags. */
static uint32_t find(const struct tokenizer *t, struct text key, const struct text *name,
                     uint32_t flags)
{
    uint32_t count = blob_count(t, SECTION_NAMES), token_count = blob_count(t, SECTION_TOKENS);
    uint32_t at = blob_hash(key.p, key.len);
    for (uint32_t probe = 0; probe < count && probe < BLOB_PROBES_MAX; probe++, at++) {
        uint32_t id = t->names[at & (count - 1)];
        if (id >= token_count)
            break;
        const struct blob_token *token = &t->tokens[id];
        if ((token->flags & flags) != flags ||
            !text_equals(blob_token_key(t, token), key.p, key.len))
            continue;
        struct text text = blob_text(t, token->text_offset, token->text_len);
        if (name == NULL || text_equals(text, name->p, name->len))
            return id;
    }
    return TOKENIZER_NONE;
}

uint32_t tokenizer_find_word(const struct tokenizer *t, const char *p, size_t len)
{
    uint32_t flags = TOKEN_PRESENT | TOKEN_MODEL;
    if (t->header->flags & BLOB_BYTE_LEVEL)
        flags |= TOKEN_BYTES;
    return find(t, (struct text){p, len}, NULL, flags);
}

uint32_t tokenizer_find(const struct tokenizer *t, const char *content, size_t len)
{
    struct text name = {content, len};
    if (len > TOKENIZER_TEXT_BYTES_MAX)
        return TOKENIZER_NONE;
    if (!(t->header->flags & BLOB_BYTE_LEVEL))
        return find(t, name, &name, TOKEN_PRESENT);
    char *bytes = malloc(len + 1);
    if (bytes == NULL)
        return TOKENIZER_NONE;
    struct text key = {bytes, 0};
    if (!byte_alphabet_decode(content, len, bytes, &key.len))
        key = name;
    uint32_t id = find(t, key, &name, TOKEN_PRESENT);
    free(bytes);
    return id;
}

uint32_t tokenizer_vocab_count(const struct tokenizer *t)
{
    return blob_count(t, SECTION_TOKENS);
}

uint32_t tokenizer_model_count(const struct tokenizer *t)
{
    uint32_t count = blob_count(t, SECTION_TOKENS);
    while (count > 0 && !(t->tokens[count - 1].flags & TOKEN_MODEL))
        count--;
    return count;
}

static const struct blob_token *token_at(const struct tokenizer *t, uint32_t id)
{
    if (id >= blob_count(t, SECTION_TOKENS) || !(t->tokens[id].flags & TOKEN_PRESENT))
        return NULL;
    return &t->tokens[id];
}

bool tokenizer_is_special(const struct tokenizer *t, uint32_t id)
{
    const struct blob_token *token = token_at(t, id);
    return token != NULL && (token->flags & TOKEN_SPECIAL) != 0;
}

bool tokenizer_token_text(const struct tokenizer *t, uint32_t id, const char **ret, size_t *ret_len)
{
    const struct blob_token *token = token_at(t, id);
    if (token == NULL)
        return false;
    struct text text = blob_text(t, token->text_offset, token->text_len);
    *ret = text.p;
    *ret_len = text.len;
    return true;
}

bool tokenizer_token_bytes(const struct tokenizer *t, uint32_t id, const char **ret,
                           size_t *ret_len)
{
    const struct blob_token *token = token_at(t, id);
    if (token == NULL)
        return false;
    struct text text = blob_text(t, token->bytes_offset, token->bytes_len);
    *ret = text.p;
    *ret_len = text.len;
    return true;
}

/* --- the byte alphabet of GPT-2: printable Latin-1 is itself, the rest follows from U+0100 --- */

static bool is_itself(uint32_t c)
{
    return (c >= '!' && c <= '~') || (c >= 0xa1 && c <= 0xac) || (c >= 0xae && c <= 0xff);
}

int byte_alphabet_put(uint8_t byte, char ret[4])
{
    uint32_t c = byte;
    if (!is_itself(c)) /* 0..32, 127..160 and 173, in this order */
        c = 0x100u + (c <= 32 ? c : c <= 160 ? c - 127 + 33 : 67);
    return utf8_put(c, ret);
}

bool byte_alphabet_decode(const char *text, size_t len, char *ret, size_t *ret_len)
{
    size_t out = 0;
    for (size_t i = 0; i < len;) {
        uint32_t c;
        int n = utf8_next(text + i, len - i, &c);
        if (n <= 0 || c > 0x143 || (c < 0x100 && !is_itself(c)))
            return false;
        i += (size_t)n;
        uint32_t k = c - 0x100;
        if (c >= 0x100)
            c = k <= 32 ? k : k <= 66 ? k - 33 + 127 : 173;
        ret[out++] = (char)c;
    }
    *ret_len = out;
    return true;
}

/* --- lists --- */

void token_list_init(struct token_list *l, size_t max)
{
    *l = (struct token_list){.max = max};
}

void token_list_free(struct token_list *l)
{
    free(l->ids);
    *l = (struct token_list){.max = l->max};
}

int token_list_append(struct token_list *l, uint32_t id)
{
    if (l->count >= l->max)
        return -E2BIG;
    if (l->count == l->cap) {
        size_t cap = l->cap < 64 ? 64 : l->cap * 2;
        uint32_t *ids = realloc(l->ids, cap * sizeof ids[0]);
        if (ids == NULL)
            return -ENOMEM;
        l->ids = ids;
        l->cap = cap;
    }
    l->ids[l->count++] = id;
    return 0;
}
