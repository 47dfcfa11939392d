/* See pack_text.h. */
#include "weights/pack_text.h"

#include "model/chat.h"
#include "model/jsonfile.h"
#include "model/tokenizer.h"
#include "weights/pack_job.h"

#include <errno.h>
#include <string.h>

#define TEXT_BYTES_MAX (8u << 20)

static const struct jsonfile_limits text_limits = {
    .bytes_max = TEXT_BYTES_MAX, .depth_max = 32, .values_max = 1u << 20};

int pack_tokenizer(const struct pack_file *files, uint32_t file_count, uint32_t vocab_count,
                   struct buf *ret, struct error *err)
{
    struct buf text;
    buf_init(&text, TOKENIZER_JSON_BYTES_MAX);
    bool found = false;
    struct tokenizer *t = NULL;
    int r = pack_read_text(files, file_count, "tokenizer.json", &text, &found, err);
    if (r == 0 && !found)
        r = error_set(err, -ENOENT,
                      "no tokenizer.json: transformers writes it with "
                      "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)");
    if (r == 0) {
        r = tokenizer_compile(text.data, text.len, ret, err);
        buf_clear(&text);
        if (r == 0)
            r = tokenizer_open(&t, ret->data, ret->len, err);
        if (r < 0)
            error_prefix(err, "tokenizer.json");
    }
    if (r == 0 && tokenizer_vocab_count(t) > vocab_count)
        r = error_set(err, -EINVAL,
                      "tokenizer.json has %u tokens, but the embedding has only %u rows "
                      "(\"vocab_size\" of config.json): is it the tokenizer of another model?",
                      tokenizer_vocab_count(t), vocab_count);
    tokenizer_close(t);
    buf_free(&text);
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
static const char *find_token(const json_t *root, const char *key)
{
    const json_t *value = jsonfile_get(root, key);
    if (json_is_object(value))
        value = json_object_get(value, "content");
    return json_is_string(value) ? json_string_value(value) : "";
}

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
                               find_token(config, "bos_token"), find_token(config, "eos_token"),
                               err);
    }
    json_decref(own);
    json_decref(config);
    buf_free(&jinja);
    return r;
}
