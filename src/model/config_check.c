/* What the engine relies on, for a configuration that came from an image. See config.h. */
#include "model/config.h"

#include <errno.h>
#include <stdbool.h>

static int check_sizes(const struct model_config *c, struct error *err)
{
    const struct {
        const char *name;
        uint32_t value;
        uint32_t max;
    } sizes[] = {
        {"vocab_size", c->vocab_count, MODEL_VOCAB_MAX},
        {"hidden_size", c->hidden, MODEL_WIDTH_MAX},
        {"num_hidden_layers", c->layer_count, MODEL_LAYERS_MAX},
        {"num_attention_heads", c->head_count, MODEL_HEADS_MAX},
        {"num_key_value_heads", c->kv_head_count, c->head_count},
        {"head_dim", c->head_dim, MODEL_HEAD_DIM_MAX},
        {"intermediate_size", c->ffn, MODEL_WIDTH_MAX},
        {"max_position_embeddings", c->context_max, MODEL_CONTEXT_MAX},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        if (sizes[i].value == 0 || sizes[i].value > sizes[i].max)
            return error_set(err, -EINVAL, "\"%s\" is %u, supported is 1 to %u", sizes[i].name,
                             sizes[i].value, sizes[i].max);
    if (c->head_count % c->kv_head_count != 0)
        return error_set(err, -EINVAL,
                         "\"num_attention_heads\" %u is no multiple of \"num_key_value_heads\" %u",
                         c->head_count, c->kv_head_count);
    if (c->rotary_dim == 0 || c->rotary_dim % 2 != 0 || c->rotary_dim > c->head_dim)
        return error_set(err, -EINVAL, "%u rotated dimensions of a \"head_dim\" of %u",
                         c->rotary_dim, c->head_dim);
    if (c->head_dim % 2 != 0)
        return error_set(err, -EINVAL, "\"head_dim\" is %u, an even number is needed", c->head_dim);
    if (c->head_count * c->head_dim > MODEL_WIDTH_MAX)
        return error_set(err, -EINVAL, "%u heads of %u are wider than %u", c->head_count,
                         c->head_dim, MODEL_WIDTH_MAX);
    return 0;
}

static bool in_range(float value, float min, float max)
{
    return value >= min && value <= max; /* false for NaN */
}

static int check_rope(const struct model_config *c, const struct model_rope *r, struct error *err)
{
    if (r->kind >= MODEL_ROPE_KIND_COUNT || !in_range(r->theta, 1, 1e12f) ||
        !in_range(r->factor, 1, 1e6f) || !in_range(r->attention_factor, 1e-3f, 1e3f))
        return error_set(err, -EINVAL,
                         "rope kind %u, theta %g, factor %g or attention factor %g is out of range",
                         r->kind, (double)r->theta, (double)r->factor, (double)r->attention_factor);
    if ((r->kind == MODEL_ROPE_LLAMA3 || r->kind == MODEL_ROPE_LONG) &&
        (r->original_context == 0 || r->original_context > MODEL_CONTEXT_MAX))
        return error_set(err, -EINVAL, "\"original_max_position_embeddings\" is %u",
                         r->original_context);
    if (r->kind == MODEL_ROPE_LLAMA3 && (!in_range(r->low_freq_factor, 1e-3f, 1e6f) ||
                                         !in_range(r->high_freq_factor, 1e-3f, 1e6f) ||
                                         !(r->low_freq_factor < r->high_freq_factor)))
        return error_set(err, -EINVAL,
                         "\"low_freq_factor\" %g is not below \"high_freq_factor\" %g",
                         (double)r->low_freq_factor, (double)r->high_freq_factor);
    for (uint32_t i = 0; r->kind == MODEL_ROPE_LONG && i < c->rotary_dim / 2; i++)
        if (!in_range(c->rope_short_factors[i], 1e-3f, 1e6f) ||
            !in_range(c->rope_long_factors[i], 1e-3f, 1e6f))
            return error_set(err, -EINVAL, "a LongRoPE factor is %g or %g",
                             (double)c->rope_short_factors[i], (double)c->rope_long_factors[i]);
    return 0;
}

static int check_flags(const struct model_config *c, struct error *err)
{
    if (c->tied_embeddings > 1 || c->qkv_bias > 1 || c->o_bias > 1 || c->mlp_bias > 1 ||
        c->qk_norm > 1 || c->post_norms > 1 || c->norm_offset > 1 || c->fused_projections > 1)
        return error_set(err, -EINVAL, "a flag is neither 0 nor 1");
    if (c->activation >= MODEL_ACTIVATION_COUNT)
        return error_set(err, -EINVAL, "activation %u is unknown", c->activation);
    if (c->fused_projections && (c->qkv_bias || c->mlp_bias))
        return error_set(err, -EINVAL, "fused projections have no biases");
    return 0;
}

static int check_tokens(const struct model_config *c, struct error *err)
{
    if (c->eos_count > MODEL_EOS_MAX)
        return error_set(err, -EINVAL, "%u end tokens, the limit is %u", c->eos_count,
                         MODEL_EOS_MAX);
    for (uint32_t i = 0; i < c->eos_count; i++)
        if (c->eos_ids[i] >= c->vocab_count)
            return error_set(err, -EINVAL, "end token %u is outside the vocabulary of %u",
                             c->eos_ids[i], c->vocab_count);
    if (c->bos_id != UINT32_MAX && c->bos_id >= c->vocab_count)
        return error_set(err, -EINVAL, "begin token %u is outside the vocabulary of %u", c->bos_id,
                         c->vocab_count);
    return 0;
}

int model_config_check(const struct model_config *c, struct error *err)
{
    if (c->family < MODEL_LLAMA || c->family > MODEL_PHI3)
        return error_set(err, -EINVAL, "unknown model family %u", c->family);
    int r = check_sizes(c, err);
    for (uint32_t i = 0; r == 0 && i < MODEL_LAYER_KIND_COUNT; i++)
        r = check_rope(c, &c->ropes[i], err);
    if (r == 0)
        r = check_flags(c, err);
    if (r < 0)
        return r;
    if (!in_range(c->norm_eps, 1e-12f, 1))
        return error_set(err, -EINVAL, "\"rms_norm_eps\" is %g", (double)c->norm_eps);
    if (!in_range(c->attention_scale, 1e-6f, 1e6f) || !in_range(c->embed_scale, 1e-6f, 1e6f))
        return error_set(err, -EINVAL, "the scale of attention %g or of embeddings %g",
                         (double)c->attention_scale, (double)c->embed_scale);
    if (c->sliding_window >= c->context_max)
        return error_set(err, -EINVAL, "a sliding window of %u in a context of %u",
                         c->sliding_window, c->context_max);
    return check_tokens(c, err);
}
