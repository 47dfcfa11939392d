/* See sentencepiece.h: the ModelProto of a tokenizer.model, field by field. */
#include "model/protobuf.h"
#include "model/sentencepiece_model.h"
#include "model/tokenizer_unicode.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { MODEL_PIECES = 1, MODEL_TRAINER = 2, MODEL_NORMALIZER = 3, MODEL_DENORMALIZER = 5 };
enum { PIECE_TEXT = 1, PIECE_SCORE = 2, PIECE_TYPE = 3 };
enum { TRAINER_MODEL_TYPE = 3, TRAINER_SUFFIX = 24, TRAINER_BYTE_FALLBACK = 35 };
enum {
    NORMALIZER_CHARSMAP = 2,
    NORMALIZER_DUMMY_PREFIX = 3,
    NORMALIZER_EXTRA_WHITESPACES = 4,
    NORMALIZER_ESCAPE_WHITESPACES = 5,
};
enum { MODEL_TYPE_UNIGRAM = 1, MODEL_TYPE_BPE = 2 };

/* What the two specs say, with protocol buffer's defaults until they do. */
struct specs {
    uint64_t model_type;
    bool suffix;
    bool byte_fallback;
    bool charsmap;
    bool dummy_prefix;
    bool extra_whitespaces; /* are removed */
    bool escape_whitespaces;
};

static int malformed(struct error *err)
{
    return error_set(err, -EINVAL, "not a SentencePiece model, or a damaged one");
}

static int refuse(struct error *err, const char *field, const char *why)
{
    return error_set(err, -EINVAL,
                     "%s is not supported: %s; transformers writes a tokenizer.json with "
                     "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)",
                     field, why);
}

static int add_piece(struct sentencepiece *s, struct protobuf message, struct error *err)
{
    struct piece piece = {.type = PIECE_NORMAL};
    struct protobuf_field f;
    int r;
    while ((r = protobuf_next(&message, &f)) > 0) {
        uint32_t bits = (uint32_t)f.value;
        if (f.number == PIECE_TEXT && f.kind == PROTOBUF_BYTES)
            piece.text = (struct text){f.bytes.p, f.bytes.len};
        else if (f.number == PIECE_SCORE && f.kind == PROTOBUF_FIXED32)
            memcpy(&piece.score, &bits, sizeof bits);
        else if (f.number == PIECE_TYPE && f.kind == PROTOBUF_NUMBER)
            piece.type = f.value;
        else if (f.number <= PIECE_TYPE)
            return malformed(err);
    }
    uint32_t id = s->piece_count;
    if (r < 0)
        return malformed(err);
    if (piece.text.len == 0 || piece.text.len > SENTENCEPIECE_PIECE_BYTES_MAX ||
        memchr(piece.text.p, '\0', piece.text.len) != NULL ||
        !utf8_is_valid(piece.text.p, piece.text.len))
        return error_set(err, -EINVAL,
                         "piece %u is empty, longer than %u bytes, not UTF-8 or holds a NUL", id,
                         SENTENCEPIECE_PIECE_BYTES_MAX);
    if (id == BLOB_VOCAB_MAX)
        return error_set(err, -E2BIG, "more than %u pieces", BLOB_VOCAB_MAX);
    if (id == s->piece_cap) {
        uint32_t cap = id < 1024 ? 1024 : 2 * id;
        struct piece *pieces = realloc(s->pieces, cap * sizeof pieces[0]);
        if (pieces == NULL)
            return error_set(err, -ENOMEM, "tokenizer: out of memory");
        s->pieces = pieces;
        s->piece_cap = cap;
    }
    s->pieces[s->piece_count++] = piece;
    if (json_object_getn(s->ids, piece.text.p, piece.text.len) != NULL)
        return error_set(err, -EINVAL, "piece %u is there twice", id);
    if (json_object_setn_new(s->ids, piece.text.p, piece.text.len, json_integer(id)) < 0)
        return error_set(err, -ENOMEM, "tokenizer: out of memory");
    return 0;
}

static int read_trainer(struct specs *specs, struct protobuf message)
{
    struct protobuf_field f;
    int r;
    while ((r = protobuf_next(&message, &f)) > 0) {
        if (f.kind != PROTOBUF_NUMBER)
            continue;
        if (f.number == TRAINER_MODEL_TYPE)
            specs->model_type = f.value;
        else if (f.number == TRAINER_SUFFIX)
            specs->suffix = f.value != 0;
        else if (f.number == TRAINER_BYTE_FALLBACK)
            specs->byte_fallback = f.value != 0;
    }
    return r;
}

/* The denormalizer has the same fields, of which only the character map counts. */
static int read_normalizer(struct specs *specs, struct protobuf message, bool forward)
{
    struct protobuf_field f;
    int r;
    while ((r = protobuf_next(&message, &f)) > 0) {
        if (f.kind == PROTOBUF_BYTES && f.number == NORMALIZER_CHARSMAP)
            specs->charsmap |= f.bytes.len > 0;
        if (f.kind != PROTOBUF_NUMBER || !forward)
            continue;
        if (f.number == NORMALIZER_DUMMY_PREFIX)
            specs->dummy_prefix = f.value != 0;
        else if (f.number == NORMALIZER_EXTRA_WHITESPACES)
            specs->extra_whitespaces = f.value != 0;
        else if (f.number == NORMALIZER_ESCAPE_WHITESPACES)
            specs->escape_whitespaces = f.value != 0;
    }
    return r;
}

static int read_fields(struct sentencepiece *s, struct specs *specs, struct protobuf message,
                       struct error *err)
{
    struct protobuf_field f;
    int r;
    while ((r = protobuf_next(&message, &f)) > 0) {
        bool known = f.number <= MODEL_NORMALIZER || f.number == MODEL_DENORMALIZER;
        if (known && f.kind != PROTOBUF_BYTES)
            return malformed(err);
        if (f.number == MODEL_PIECES)
            r = add_piece(s, f.bytes, err);
        else if (f.number == MODEL_TRAINER && read_trainer(specs, f.bytes) < 0)
            r = malformed(err);
        else if ((f.number == MODEL_NORMALIZER || f.number == MODEL_DENORMALIZER) &&
                 read_normalizer(specs, f.bytes, f.number == MODEL_NORMALIZER) < 0)
            r = malformed(err);
        if (r < 0)
            return r;
    }
    return r < 0 || s->piece_count == 0 ? malformed(err) : 0;
}

static int check_specs(const struct specs *specs, struct error *err)
{
    if (specs->model_type == MODEL_TYPE_UNIGRAM)
        return refuse(err, "trainer_spec.model_type UNIGRAM in a tokenizer.model",
                      "LlamaTokenizer would read it as BPE");
    if (specs->model_type != MODEL_TYPE_BPE)
        return refuse(err, "trainer_spec.model_type other than BPE",
                      "no checkpoint's class reads it");
    if (!specs->byte_fallback)
        return refuse(err, "trainer_spec.byte_fallback false",
                      "LlamaTokenizer drops unknown characters without a word");
    if (specs->suffix)
        return refuse(err, "trainer_spec.treat_whitespace_as_suffix", "LlamaTokenizer ignores it");
    if (specs->charsmap)
        return refuse(err, "normalizer_spec.precompiled_charsmap", "LlamaTokenizer ignores it");
    if (specs->extra_whitespaces)
        return refuse(err, "normalizer_spec.remove_extra_whitespaces", "LlamaTokenizer ignores it");
    if (!specs->escape_whitespaces)
        return refuse(err, "normalizer_spec.escape_whitespaces false", "LlamaTokenizer ignores it");
    return 0;
}

/* SentencePiece merges by score, LlamaTokenizer by id: they must say the same. */
static int check_pieces(const struct sentencepiece *s, struct error *err)
{
    float last = 0;
    bool first = true;
    for (uint32_t id = 0; id < s->piece_count; id++) {
        const struct piece *p = &s->pieces[id];
        if (p->type < PIECE_NORMAL || p->type > PIECE_BYTE || p->type == PIECE_UNUSED)
            return error_set(err, -EINVAL, "piece %u is of type %llu, which is not supported", id,
                             (unsigned long long)p->type);
        if (p->type != PIECE_NORMAL)
            continue;
        if (!first && !(p->score < last))
            return error_set(err, -EINVAL,
                             "the score of piece %u is not below that of the piece before: "
                             "SentencePiece and LlamaTokenizer would merge in different orders; "
                             "a tokenizer.json says which is meant",
                             id);
        first = false;
        last = p->score;
    }
    for (unsigned byte = 0; byte < 256; byte++) {
        char name[8];
        int n = snprintf(name, sizeof name, "<0x%02X>", byte);
        const json_t *id = json_object_getn(s->ids, name, (size_t)n);
        if (id == NULL || s->pieces[json_integer_value(id)].type != PIECE_BYTE)
            return error_set(err, -EINVAL, "byte_fallback without the byte piece %s", name);
    }
    return 0;
}

/* "IQ== 0": the base64 and rank of a tiktoken vocabulary, which some checkpoints call
 * tokenizer.model too. */
static bool is_tiktoken(const char *p, size_t len)
{
    size_t i = 0, digits = 0;
    while (i < len && p[i] > ' ' && p[i] < 0x7f)
        i++;
    if (i == 0 || i == len || p[i] != ' ')
        return false;
    for (i++; i < len && p[i] >= '0' && p[i] <= '9'; i++)
        digits++;
    return digits > 0 && i < len && p[i] == '\n';
}

int sentencepiece_read(struct sentencepiece *s, const void *model, size_t len, struct error *err)
{
    struct specs specs = {.model_type = MODEL_TYPE_UNIGRAM,
                          .dummy_prefix = true,
                          .extra_whitespaces = true,
                          .escape_whitespaces = true};
    if (is_tiktoken(model, len))
        return refuse(err, "a tiktoken vocabulary", "it lacks the pattern that splits words");
    *s = (struct sentencepiece){.ids = json_object()};
    int r = s->ids == NULL ? error_set(err, -ENOMEM, "tokenizer: out of memory")
                           : read_fields(s, &specs, (struct protobuf){model, len}, err);
    if (r == 0)
        r = check_specs(&specs, err);
    if (r == 0)
        r = check_pieces(s, err);
    s->dummy_prefix = specs.dummy_prefix;
    if (r < 0)
        sentencepiece_free(s);
    return r;
}

void sentencepiece_free(struct sentencepiece *s)
{
    json_decref(s->ids);
    free(s->pieces);
    *s = (struct sentencepiece){0};
}
