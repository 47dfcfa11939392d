/*
 * The blob: what tokenizer_compile writes and tokenizer_open maps. A header of sections, each an
 * array of fixed-size records; every offset counts bytes from the blob's start or, for text, from
 * the start of the pool. Host byte order (little endian). Private to tokenizer*.c.
 *
 * Readers trust the header only, after blob_check (tokenizer.c): whatever a record says is checked
 * where it is used, so that a worker never walks megabytes of tables at its start.
 */
#pragma once

#include "base/buf.h"
#include "model/tokenizer.h"

#include <string.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#define BLOB_MAGIC 0x4b544c53u /* "SLTK" */
#define BLOB_VERSION 2u
#define BLOB_VOCAB_MAX 1048576u
#define BLOB_MERGES_MAX 4194304u
#define BLOB_STEPS_MAX 16u
#define BLOB_ADDED_MAX 65536u
#define BLOB_ADDED_BYTES_MAX 512u
#define BLOB_AFFIX_MAX 16u
#define BLOB_STRING_BYTES_MAX 8192u /* a pattern, a replacement */
#define BLOB_PROBES_MAX 1024u       /* of a hash table; longer chains never come out of compile */
#define BLOB_STRIP_MAX 64u

enum blob_section {
    SECTION_POOL,       /* char */
    SECTION_TOKENS,     /* struct blob_token, by id */
    SECTION_NAMES,      /* uint32_t id: hash table over blob_token_key, TOKENIZER_NONE is empty */
    SECTION_MERGES,     /* struct blob_merge: hash table, left == TOKENIZER_NONE is empty */
    SECTION_ADDED_RAW,  /* struct blob_added, sorted by text; matched before normalizing */
    SECTION_ADDED_NORM, /* the same, matched after it */
    SECTION_NORMALIZE,  /* struct blob_step */
    SECTION_SPLIT,      /* struct blob_step */
    SECTION_PREFIX,     /* uint32_t id */
    SECTION_SUFFIX,     /* uint32_t id */
    SECTION_PIECES,     /* struct blob_added, sorted by text; what a word of Unigram is made of */
    SECTION_SCORES,     /* struct blob_score by id, then that of an unknown character */
    SECTION_COUNT,
};

enum blob_flag {
    BLOB_BYTE_LEVEL = 1,    /* words are bytes, and tokens stand for bytes (GPT-2) */
    BLOB_IGNORE_MERGES = 2, /* a word that is a token needs no merges */
    BLOB_BYTE_FALLBACK = 4, /* an unknown character becomes its bytes' tokens */
    BLOB_FUSE_UNK = 8,
    BLOB_DECODE_RUNS = 16,      /* runs of byte tokens are text when they are valid together */
    BLOB_DECODE_METASPACE = 32, /* the first token loses every `metaspace` */
    BLOB_UNIGRAM = 64           /* words are cut by scores; otherwise byte pairs merge */
};

struct blob_section_range {
    uint32_t offset;
    uint32_t count; /* records */
};

struct blob_header {
    uint32_t magic;
    uint32_t version;
    uint32_t bytes; /* of the whole blob */
    uint32_t flags; /* enum blob_flag */
    uint32_t unk_id;
    uint32_t metaspace;     /* the character that BLOB_DECODE_METASPACE drops */
    uint32_t strip_count;   /* at the beginning of decoded text, up to so many ... */
    uint32_t strip_char;    /* ... of this character vanish */
    uint32_t byte_ids[256]; /* the token of each byte, or TOKENIZER_NONE */
    struct blob_section_range sections[SECTION_COUNT];
};

enum blob_token_flag {
    TOKEN_PRESENT = 1,
    TOKEN_MODEL = 2,   /* in the model's vocabulary: a word can be it */
    TOKEN_SPECIAL = 4, /* left out when special tokens are skipped */
    TOKEN_BYTES = 8,   /* byte level: spelled in the byte alphabet */
    TOKEN_RUN = 16     /* with BLOB_DECODE_RUNS: stands for one byte */
};

struct blob_token {
    uint32_t text_offset; /* as the vocabulary spells it */
    uint32_t text_len;
    uint32_t bytes_offset; /* what it decodes to */
    uint32_t bytes_len;
    uint32_t flags; /* enum blob_token_flag */
};

struct blob_merge {
    uint32_t left;
    uint32_t right;
    uint32_t rank; /* smaller goes first */
    uint32_t id;   /* what the two become */
};

enum blob_added_flag { ADDED_LSTRIP = 1, ADDED_RSTRIP = 2, ADDED_SINGLE_WORD = 4 };

struct blob_added {
    uint32_t offset;
    uint32_t len;
    uint32_t id;
    uint32_t flags; /* enum blob_added_flag */
};

/* A double, in two halves because the blob is aligned to 4 bytes. */
struct blob_score {
    uint32_t half[2];
};

static inline void blob_put_score(struct blob_score *s, double value)
{
    memcpy(s->half, &value, sizeof value);
}

enum blob_step_kind {
    STEP_FORM = 1,     /* flags: enum unicode_form */
    STEP_LOWERCASE,    /*  */
    STEP_STRIP,        /* flags: 1 left, 2 right */
    STEP_PREPEND,      /* b, unless the text is empty */
    STEP_REPLACE,      /* pattern a becomes b; flags: 1 when a is plain text */
    STEP_SPLIT,        /* pattern a, or b on text without newer characters; see below */
    STEP_PREFIX_SPACE, /* one space before a piece that begins with none */
    STEP_METASPACE,    /* spaces become b; flags: enum blob_metaspace */
    STEP_KIND_COUNT,
};

enum blob_behavior {
    SPLIT_ISOLATED,
    SPLIT_REMOVED,
    SPLIT_CONTIGUOUS,
    SPLIT_MERGED_PREVIOUS,
    SPLIT_MERGED_NEXT,
    SPLIT_BEHAVIOR_COUNT,
};
#define STEP_SPLIT_INVERT 16u /* flags of a STEP_SPLIT: this | enum blob_behavior */

enum blob_metaspace { METASPACE_FIRST = 1, METASPACE_ALWAYS = 2, METASPACE_SPLIT = 4 };

struct blob_step {
    uint32_t kind; /* enum blob_step_kind */
    uint32_t flags;
    uint32_t a_offset;
    uint32_t a_len;
    uint32_t b_offset;
    uint32_t b_len;
};

_Static_assert(sizeof(struct blob_header) == 4 * (8 + 256 + 2 * SECTION_COUNT), "stored");
_Static_assert(sizeof(struct blob_token) == 20 && sizeof(struct blob_merge) == 16, "stored");
_Static_assert(sizeof(struct blob_added) == 16 && sizeof(struct blob_step) == 24, "stored");
_Static_assert(sizeof(struct blob_score) == sizeof(double), "stored");

/* --- an open tokenizer, as its own files see it --- */

struct text {
    const char *p;
    size_t len;
};

struct tokenizer {
    const struct blob_header *header;
    const char *pool;
    size_t pool_bytes;
    const struct blob_token *tokens;
    const uint32_t *names;
    const struct blob_merge *merges;
    const struct blob_added *added[2]; /* raw, normalized */
    const struct blob_added *pieces;
    const struct blob_score *scores;
    uint32_t added_first[2][257]; /* where the texts that begin with a byte begin */
    uint32_t piece_first[257];
    const struct blob_step *normalize;
    const struct blob_step *split;
    const uint32_t *prefix;
    const uint32_t *suffix;
    pcre2_code *normalize_code[BLOB_STEPS_MAX]; /* of a STEP_REPLACE with a pattern */
    pcre2_code *split_code[BLOB_STEPS_MAX][2];  /* of a STEP_SPLIT: pattern b, pattern a */
    pcre2_code *word_code;                      /* one word character; for ADDED_SINGLE_WORD */
    uint32_t ascii_ids[128]; /* character level: the model's token of each ASCII character */
};

static inline uint32_t blob_count(const struct tokenizer *t, enum blob_section s)
{
    return t->header->sections[s].count;
}

/* A slice of the pool, empty where a record points outside. */
static inline struct text blob_text(const struct tokenizer *t, uint32_t offset, uint32_t len)
{
    if (offset > t->pool_bytes || len > t->pool_bytes - offset)
        return (struct text){"", 0};
    return (struct text){t->pool + offset, len};
}

/* Of a piece, or with id = blob_count(SECTION_SCORES) - 1 of an unknown character. */
static inline double blob_score(const struct tokenizer *t, uint32_t id)
{
    double value = 0;
    if (id < blob_count(t, SECTION_SCORES))
        memcpy(&value, t->scores[id].half, sizeof value);
    return value;
}

/* What a token is looked up by: its bytes at byte level, else its text. */
static inline struct text blob_token_key(const struct tokenizer *t, const struct blob_token *token)
{
    if (t->header->flags & BLOB_BYTE_LEVEL)
        return blob_text(t, token->bytes_offset, token->bytes_len);
    return blob_text(t, token->text_offset, token->text_len);
}

uint32_t blob_hash(const char *p, size_t len);
static inline uint32_t blob_hash_pair(uint32_t left, uint32_t right)
{
    uint64_t h = ((uint64_t)left << 32 | right) * 0x9e3779b97f4a7c15u;
    return (uint32_t)(h >> 32);
}

/* The model's token that a whole word is, or TOKENIZER_NONE. */
uint32_t tokenizer_find_word(const struct tokenizer *t, const char *p, size_t len);

/* Walks the records, of texts sorted and indexed by their first byte, that `p` begins with: the
 * shortest first. */
struct prefixes {
    const struct tokenizer *t;
    const struct blob_added *items;
    uint32_t low; /* the records that agree so far */
    uint32_t high;
    size_t depth; /* with so many bytes */
    const char *p;
    size_t len;
};

struct prefixes prefixes_of(const struct tokenizer *t, const struct blob_added *items,
                            const uint32_t first[257], const char *p, size_t len);
const struct blob_added *prefixes_next(struct prefixes *s); /* NULL: no more */

/* The byte-level alphabet: writes the bytes that `text` spells (at most len) and their count;
 * false when some character spells none. */
bool byte_alphabet_decode(const char *text, size_t len, char *ret, size_t *ret_len);
int byte_alphabet_put(uint8_t byte, char ret[4]); /* the character of one byte */

/* PCRE2 as this folder uses it: UTF-8, Unicode classes, Onigmo's line rules, never JIT. */
pcre2_code *pattern_compile(const char *p, size_t len, struct error *err);

/* --- a piece of work with patterns and words, tokenizer_encode.c and its helpers --- */

struct matcher {
    pcre2_match_data *data;
    pcre2_match_context *context;
};

int matcher_init(struct matcher *m);
void matcher_free(struct matcher *m);

/* Walks a text as the reference's find_matches does: stretches that match and those between. */
struct segments {
    const pcre2_code *code; /* NULL: plain text `needle` */
    struct text needle;
    const char *p;
    size_t len;
    size_t at;     /* end of what was given out */
    size_t search; /* where the next search begins */
    size_t last;   /* end of the last match, SIZE_MAX before the first */
    size_t start;  /* a match that was found but not given out yet */
    size_t end;
    bool found;
    bool over; /* no more matches */
};

void segments_init(struct segments *s, const pcre2_code *code, struct text needle, const char *p,
                   size_t len);
/* 1: a segment; 0: the end; negative: errno, with the reason. */
int segments_next(struct segments *s, struct matcher *m, struct text *ret, bool *ret_match,
                  struct error *err);

/* Runs the normalizer's steps: *ret is `in` itself or lives in one of the two buffers. */
int normalize_run(const struct tokenizer *t, struct matcher *m, struct text in,
                  struct buf buffers[2], struct text *ret, struct error *err);

/* The best way to cut a word into pieces; the array grows with the longest word and is reused. */
struct unigram_end {
    double score;   /* of the best pieces up to here */
    uint32_t other; /* where the last of them begins; once the way is known, where the next ends */
    uint32_t id;    /* the last of them */
};

struct unigram {
    struct unigram_end *ends; /* owned; by byte of the word */
    size_t cap;
};

void unigram_free(struct unigram *u);
/* As bpe_encode. */
int unigram_encode(const struct tokenizer *t, struct unigram *u, const char *word, size_t len,
                   struct token_list *out);

/* Byte pair encoding of one word; the arrays grow with the longest word and are reused. */
struct bpe_symbol {
    uint32_t id;
    uint32_t previous; /* index, TOKENIZER_NONE at the ends */
    uint32_t next;
    uint32_t rank;   /* of the pair with the next one, TOKENIZER_NONE when they do not merge */
    uint32_t merged; /* what that pair becomes */
};

struct bpe {
    struct bpe_symbol *symbols; /* owned */
    size_t count;
    size_t symbol_cap;
    uint64_t *heap; /* owned: rank << 32 | index, the smallest first */
    size_t heap_count;
    size_t heap_cap;
};

void bpe_free(struct bpe *b);
/* Appends the ids of one word. 0, -ENOMEM, -E2BIG (the list is full), -EINVAL (a broken blob). */
int bpe_encode(const struct tokenizer *t, struct bpe *b, const char *word, size_t len,
               struct token_list *out);
