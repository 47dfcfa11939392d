/* See pack_text.h. */
#include "weights/pack_text.h"

#include "model/chat.h"
#include "model/jsonfile.h"
#include "model/sentencepiece.h"
#include "model/tokenizer.h"
#include "weights/pack_job.h"

#include <errno.h>
#include <string.h>

#define TEXT_BYTES_MAX (8u << 20)

static const struct jsonfile_limits text_limits = {
    .bytes_max = TEXT_BYTES_MAX, .depth_max = 32, .values_max = 1u << 20};

static int read_object(const struct pack_file *files, uint32_t file_count, const char *name,
                       json_t **ret, struct error *err)
{
    struct buf text;
    buf_init(&text, TEXT_BYTES_MAX);
    bool found = false;
    int r = pack_read_text(files, file_count, name, &text, &found, err);
    if (r == 0 && found) {
        r = jsonfile_parse(text.data, text.len, &text_limits, ret, err);
        if (r < 0)
            error_prefix(err, "%s", name);
    }
    buf_free(&text);
    return r;
}

/* The text of the tokenizer.json that stands for a checkpoint's tokenizer.model. */
static int convert_model(const struct pack_file *files, uint32_t file_count, struct buf *ret,
                         struct error *err)
{
    struct buf model;
    json_t *config = NULL, *map = NULL;
    bool found = false;
    buf_init(&model, SENTENCEPIECE_BYTES_MAX);
    int r = pack_read_text(files, file_count, "tokenizer.model", &model, &found, err);
    if (r == 0 && !found)
        r = error_set(err, -ENOENT,
                      "no tokenizer.json and no tokenizer.model: transformers writes the first "
                      "with AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)");
    if (r == 0)
        r = read_object(files, file_count, "tokenizer_config.json", &config, err);
    if (r == 0)
        r = read_object(files, file_count, "special_tokens_map.json", &map, err);
    if (r == 0 && source_find(files, file_count, "added_tokens.json") != NULL &&
        jsonfile_get(config, "added_tokens_decoder") == NULL)
        r = error_set(err, -EINVAL,
                      "added_tokens.json beside a tokenizer.model is not supported: list its "
                      "tokens in \"added_tokens_decoder\" of tokenizer_config.json");
    if (r == 0)
        r = sentencepiece_to_json(model.data, model.len, config, map, ret, err);
    json_decref(config);
    json_decref(map);
    buf_free(&model);
    return r;
}

/* With a tokenizer.json, tokenizer_config.json has no say: not even "add_bos_token", as in
 * transformers. */
static int compile(const struct pack_file *files, uint32_t file_count, struct buf *ret,
                   struct error *err)
{
    struct buf text;
    bool found = false;
    buf_init(&text, TOKENIZER_JSON_BYTES_MAX);
    int r = pack_read_text(files, file_count, "tokenizer.json", &text, &found, err);
    if (r == 0 && !found)
        r = convert_model(files, file_count, &text, err);
    if (r == 0) {
        r = tokenizer_compile(text.data, text.len, ret, err);
        if (r < 0)
            error_prefix(err, "tokenizer.json");
    }
    buf_free(&text);
    return r;
}

/* Gemma 3 and others have added tokens that the text model has no row for: a prompt with one of
 * them is refused. A word of the model without a row means another model's tokenizer. */
static int check_rows(const struct tokenizer *t, uint32_t vocab_count, struct error *err)
{
    uint32_t count = tokenizer_model_count(t);
    if (count <= vocab_count)
        return 0;
    return error_set(err, -EINVAL,
                     "the tokenizer has %u tokens, but the embedding has only %u rows "
                     "(\"vocab_size\" of config.json): is it the tokenizer of another model?",
                     count, vocab_count);
}

int pack_tokenizer(const struct pack_file *files, uint32_t file_count, uint32_t vocab_count,
                   struct buf *ret, struct error *err)
{
    struct tokenizer *t = NULL;
    int r = compile(files, file_count, ret, err);
    if (r == 0)
        r = tokenizer_open(&t, ret->data, ret->len, err);
    if (r == 0)
        r = check_rows(t, vocab_count, err);
    tokenizer_close(t);
    return r;
}

/* Either a string or, with several named templates, the one called "default". */
static const char *find_template(const json_t *root)
{
    const json_t *value = jsonfile_get(root, "chat_template");
    if (json_is_string(value))
        return json_string_value(value);
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *item = json_array_get(value, i);
        const char *name = json_string_value(json_object_get(item, "name"));
        if (name != NULL && strcmp(name, "default") == 0)
            return json_string_value(json_object_get(item, "template"));
    }
    return NULL;
}

/* "<s>", or {"content": "<s>", ...} as older tokenizers write it. */
static const char *find_token(const json_t *root, const char *key, const char *otherwise)
{
    const json_t *value = json_object_get(root, key);
    if (value == NULL)
        return otherwise;
    if (json_is_object(value))
        value = json_object_get(value, "content");
    return json_is_string(value) ? json_string_value(value) : "";
}

/* The template must be understood now: a function that fails at its first message is worse. */
static int check_template(const char *template, const char *name, struct error *err)
{
    struct chat_template *parsed = NULL;
    int r = chat_template_parse(&parsed, template, strlen(template), err);
    if (r < 0) {
        error_prefix(err, "the chat template of %s", name);
        return r;
    }
    chat_template_free(parsed);
    return 0;
}

static int append_strings(struct buf *ret, const char *template, const char *bos, const char *eos,
                          struct error *err)
{
    const char *strings[] = {template, bos, eos};
    for (size_t i = 0; i < sizeof strings / sizeof strings[0]; i++) {
        int r = buf_append(ret, strings[i], strlen(strings[i]) + 1);
        if (r < 0)
            return error_set(err, r, "the chat template is too long");
    }
    return 0;
}

int pack_chat(const struct pack_file *files, uint32_t file_count, struct buf *ret,
              struct error *err)
{
    static const char jinja_name[] = "chat_template.jinja";
    static const char json_name[] = "chat_template.json";
    static const char config_name[] = "tokenizer_config.json";
    struct buf jinja;
    buf_init(&jinja, TEXT_BYTES_MAX);
    bool found = false;
    json_t *own = NULL;
    json_t *config = NULL;
    /* A tokenizer.model alone is LlamaTokenizer's, which has these names where none are given. */
    bool llama = source_find(files, file_count, "tokenizer.json") == NULL;
    int r = pack_read_text(files, file_count, jinja_name, &jinja, &found, err);
    if (r == 0 && found && jinja.len > 0 && memchr(jinja.data, '\0', jinja.len) != NULL)
        r = error_set(err, -EINVAL, "%s holds a NUL byte", jinja_name);
    if (r == 0)
        r = read_object(files, file_count, json_name, &own, err);
    if (r == 0)
        r = read_object(files, file_count, config_name, &config, err);
    if (r == 0) {
        const char *name = jinja_name;
        const char *template = found ? jinja.data : NULL;
        if (template == NULL && (template = find_template(own)) != NULL)
            name = json_name;
        if (template == NULL && (template = find_template(config)) != NULL)
            name = config_name;
        if (template != NULL)
            r = check_template(template, name, err);
        if (r == 0)
            r = append_strings(ret, template != NULL ? template : "",
                               find_token(config, "bos_token", llama ? "<s>" : ""),
                               find_token(config, "eos_token", llama ? "</s>" : ""), err);
    }
    json_decref(own);
    json_decref(config);
    buf_free(&jinja);
    return r;
}
