/* See synth_shape.h. */
#include "cli/synth_shape.h"

#include "cli/synth.h"

#include <string.h>

#define BYTE_TOKENS 256u

static const char *const specials[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};

#define SPECIAL_COUNT 3u
#define EOS_ID (BYTE_TOKENS + 2)

static const struct synth_shape shapes[] = {
    {"qwen2.5-0.5b", "Qwen2ForCausalLM", "qwen2", 896, 24, 14, 2, 64, 4864, 151936, 32768, 1000000,
     false, true, true, "1e-06"},
    {"llama-3.2-1b", "LlamaForCausalLM", "llama", 2048, 16, 32, 8, 64, 8192, 128256, 131072, 500000,
     true, true, false, "1e-05"},
    {"tinyllama-1.1b", "LlamaForCausalLM", "llama", 2048, 22, 32, 4, 64, 5632, 32000, 2048, 10000,
     false, false, false, "1e-05"},
    {"llama-2-7b", "LlamaForCausalLM", "llama", 4096, 32, 32, 32, 128, 11008, 32000, 4096, 10000,
     false, false, false, "1e-05"},
    {"llama-3-8b", "LlamaForCausalLM", "llama", 4096, 32, 32, 8, 128, 14336, 128256, 8192, 500000,
     false, false, false, "1e-05"},
    /* As little model as possible, to measure what is around it. */
    {"tiny", "LlamaForCausalLM", "llama", 64, 1, 4, 2, 16, 128, 4096, 2048, 10000, false, true,
     false, "1e-05"},
};

#define SHAPE_COUNT (sizeof shapes / sizeof shapes[0])

const struct synth_shape *synth_shape_find(const char *name)
{
    for (size_t i = 0; i < SHAPE_COUNT; i++)
        if (strcmp(shapes[i].name, name) == 0)
            return &shapes[i];
    return NULL;
}

const char *synth_shape_name(uint32_t index)
{
    return index < SHAPE_COUNT ? shapes[index].name : NULL;
}

int synth_shape_names(struct buf *ret)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < SHAPE_COUNT; i++)
        r = buf_printf(ret, "%s%s", i > 0 ? ", " : "", shapes[i].name);
    return r;
}

int synth_config_json(const struct synth_shape *s, struct buf *ret)
{
    static const char llama3[] =
        "{\"rope_type\": \"llama3\", \"factor\": 32.0, \"low_freq_factor\": 1.0, "
        "\"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 8192}";
    return buf_printf(ret,
                      "{\n"
                      "  \"architectures\": [\"%s\"],\n"
                      "  \"model_type\": \"%s\",\n"
                      "  \"hidden_act\": \"silu\",\n"
                      "  \"hidden_size\": %u,\n"
                      "  \"intermediate_size\": %u,\n"
                      "  \"num_hidden_layers\": %u,\n"
                      "  \"num_attention_heads\": %u,\n"
                      "  \"num_key_value_heads\": %u,\n"
                      "  \"head_dim\": %u,\n"
                      "  \"vocab_size\": %u,\n"
                      "  \"max_position_embeddings\": %u,\n"
                      "  \"rms_norm_eps\": %s,\n"
                      "  \"rope_theta\": %u.0,\n"
                      "  \"rope_scaling\": %s,\n"
                      "  \"tie_word_embeddings\": %s,\n"
                      "  \"bos_token_id\": %u,\n"
                      "  \"eos_token_id\": %u,\n"
                      "  \"torch_dtype\": \"bfloat16\"\n"
                      "}\n",
                      s->architecture, s->model_type, s->hidden, s->ffn, s->layers, s->heads,
                      s->kv_heads, s->head_dim, s->vocab, s->context, s->norm_eps, s->rope_theta,
                      s->llama3_rope ? llama3 : "null", s->tied ? "true" : "false", BYTE_TOKENS,
                      EOS_ID);
}

int synth_generation_json(struct buf *ret)
{
    return buf_printf(ret, "{\n  \"bos_token_id\": %u,\n  \"eos_token_id\": [%u]\n}\n", BYTE_TOKENS,
                      EOS_ID);
}

/* The character that stands for a byte in the vocabularies of GPT-2's kind: printable ones stand
 * for themselves, the others follow each other from U+0100 on. */
static uint32_t byte_character(uint32_t byte, uint32_t *next)
{
    bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    return printable ? byte : (*next)++;
}

static int append_added_tokens(struct buf *ret)
{
    int r = buf_append_str(ret, "  \"added_tokens\": [\n");
    for (uint32_t i = 0; r == 0 && i < SPECIAL_COUNT; i++)
        r = buf_printf(ret,
                       "    {\"id\": %u, \"content\": \"%s\", \"single_word\": false, "
                       "\"lstrip\": false, \"rstrip\": false, \"normalized\": false, "
                       "\"special\": true}%s\n",
                       BYTE_TOKENS + i, specials[i], i + 1 < SPECIAL_COUNT ? "," : "");
    return r < 0 ? r : buf_append_str(ret, "  ],\n");
}

/* Every row of the embedding has a token, and every token prints as legible ASCII. */
static int append_vocab(const struct synth_shape *s, struct buf *ret)
{
    uint32_t next = 256;
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < s->vocab; i++) {
        const char *comma = i + 1 < s->vocab ? ", " : "";
        if (i < BYTE_TOKENS)
            r = buf_printf(ret, "\"\\u%04x\": %u%s", byte_character(i, &next), i, comma);
        else if (i < BYTE_TOKENS + SPECIAL_COUNT)
            r = buf_printf(ret, "\"%s\": %u%s", specials[i - BYTE_TOKENS], i, comma);
        else
            r = buf_printf(ret, "\"<p%u>\": %u%s", i, i, comma);
    }
    return r;
}

int synth_tokenizer_json(const struct synth_shape *s, struct buf *ret)
{
    int r = buf_append_str(ret, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n"
                                "  \"padding\": null,\n");
    if (r == 0)
        r = append_added_tokens(ret);
    if (r == 0)
        r = buf_append_str(
            ret, "  \"normalizer\": null,\n"
                 "  \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
                 "\"trim_offsets\": true, \"use_regex\": true},\n"
                 "  \"post_processor\": null,\n"
                 "  \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, "
                 "\"trim_offsets\": true, \"use_regex\": true},\n"
                 "  \"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null, "
                 "\"continuing_subword_prefix\": null, \"end_of_word_suffix\": null, "
                 "\"fuse_unk\": false, \"byte_fallback\": false, \"ignore_merges\": false,\n"
                 "    \"vocab\": {");
    if (r == 0)
        r = append_vocab(s, ret);
    return r < 0 ? r : buf_append_str(ret, "},\n    \"merges\": []}\n}\n");
}

int synth_tokenizer_config_json(struct buf *ret)
{
    return buf_append_str(
        ret,
        "{\n"
        "  \"tokenizer_class\": \"PreTrainedTokenizerFast\",\n"
        "  \"bos_token\": \"<|endoftext|>\",\n"
        "  \"eos_token\": \"<|im_end|>\",\n"
        "  \"chat_template\": \"{% for message in messages %}<|im_start|>{{ message['role'] }}\\n"
        "{{ message['content'] }}<|im_end|>\\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\\n{% endif %}\"\n"
        "}\n");
}

int synth_adapter_json(const struct synth_shape *s, uint32_t rank, struct buf *ret)
{
    return buf_printf(ret,
                      "{\n"
                      "  \"peft_type\": \"LORA\",\n"
                      "  \"task_type\": \"CAUSAL_LM\",\n"
                      "  \"base_model_name_or_path\": \"synth-%s\",\n"
                      "  \"r\": %u,\n"
                      "  \"lora_alpha\": %u,\n"
                      "  \"lora_dropout\": 0.0,\n"
                      "  \"bias\": \"none\",\n"
                      "  \"fan_in_fan_out\": false,\n"
                      "  \"inference_mode\": true,\n"
                      "  \"init_lora_weights\": true,\n"
                      "  \"modules_to_save\": null,\n"
                      "  \"target_modules\": [\"q_proj\", \"k_proj\", \"v_proj\", \"o_proj\", "
                      "\"gate_proj\", \"up_proj\", \"down_proj\"],\n"
                      "  \"use_dora\": false,\n"
                      "  \"use_rslora\": false\n"
                      "}\n",
                      s->name, rank, 2 * rank);
}
