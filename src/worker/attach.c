/*
 * What a worker maps: the backbone once, adapters as its domain's functions are first asked for.
 * Nothing that is mapped is trusted: the image's own checks come first.
 */
#include "worker/session.h"

#include "base/cleanup.h"
#include "base/clock.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* --- backbone --- */

static int open_text(struct session *s, struct error *err)
{
    uint64_t bytes;
    const void *blob = image_section(&s->backbone.image, IMAGE_TOKENIZER, &bytes);
    int r = tokenizer_open(&s->tokenizer, blob, bytes, err);
    if (r < 0)
        return error_prefix(err, "tokenizer");
    size_t len = strlen(s->backbone.chat_template);
    return len == 0 ? 0 : chat_template_parse(&s->chat, s->backbone.chat_template, len, err);
}

static int open_engine(struct session *s, const struct wire_attach *a, struct error *err)
{
    struct engine_options o = {
        .threads = a->threads,
        .sequences_max = a->sequences_max,
        .rows_max = a->rows_max,
        .kv_bytes = a->kv_bytes,
        .adapters_max = a->adapters_max,
        .context_max = a->context_max,
        .prefix_cache = a->prefix_cache != 0,
        .kv_dtype = a->kv_dtype,
        .gpu = s->gpu,
        .backbone_address = s->on_gpu != NULL ? gpu_memory_address(s->on_gpu) : 0,
    };
    if (a->adapters_max > SESSION_SLOTS_MAX || a->sequences_max > SESSION_ANSWERS_MAX)
        return error_set(err, -EPROTO, "ATTACH is out of range");
    int r = engine_open(&s->engine, &s->backbone, &o, err);
    if (r == 0)
        (void)engine_kv_limit(s->engine, a->kv_limit_bytes, false);
    return r;
}

int session_open_backbone(struct session *s, const struct digest *digest, int fd, struct error *err)
{
    cleanup_fd int own = fd;
    if (s->view.data != NULL || own < 0)
        return error_set(err, -EPROTO, "a backbone comes once, with its memory");
    int r = share_map(&s->view, own, IMAGE_BYTES_MAX, false, err);
    if (r < 0)
        return r;
    /* A worker without mseal has only itself to harm. */
    (void)share_freeze(&s->view);
    s->backbone_digest = *digest;
    r = backbone_open(&s->backbone, s->view.data, s->view.bytes, err);
    return r < 0 ? r : open_text(s, err);
}

/* The image as it lies on the GPU, of which `fd` stands for as many bytes as the view has. */
static int open_on_gpu(struct session *s, int fd, struct error *err)
{
    return gpu_memory_import(&s->on_gpu, gpu_device_context(s->gpu), fd,
                             s->backbone.image.header->bytes, err);
}

int session_attach(struct session *s, const struct wire_attach *a, int fd, int gpu_fd,
                   struct error *err)
{
    cleanup_fd int own_gpu = gpu_fd;
    uint64_t began_us = clock_now_us();
    if (s->engine != NULL || (s->gpu != NULL) != (own_gpu >= 0))
        return error_set(err, -EPROTO, "one ATTACH makes a worker, on a GPU with memory there");
    int r = 0;
    if (s->view.data == NULL || fd >= 0)
        r = session_open_backbone(s, &a->backbone, fd, err);
    else if (!digest_equal(&s->backbone_digest, &a->backbone))
        r = error_set(err, -EPROTO, "ATTACH names another backbone than this process has");
    if (r == 0 && s->gpu != NULL)
        r = open_on_gpu(s, own_gpu, err);
    if (r == 0)
        r = open_engine(s, a, err);
    if (r < 0)
        return r;
    token_list_init(&s->tokens, engine_context_max(s->engine) + 1);
    s->text =
        (struct text_model){.tokenizer = s->tokenizer,
                            .chat = s->chat,
                            .bos_token = s->backbone.bos_token,
                            .eos_token = s->backbone.eos_token,
                            .context_max = engine_context_max(s->engine),
                            .vocab_count = s->backbone.config->vocab_count,
                            .takes_tools = strstr(s->backbone.chat_template, "tools") != NULL};
    s->sequences_left = s->sequences_max = a->sequences_max;
    s->kv_limit_bytes = a->kv_limit_bytes;
    struct wire_ready ready = {
        .sandbox_us = s->sandbox_us,
        .attach_us = clock_now_us() - began_us,
        .context_max = s->text.context_max,
        .vocab_count = s->backbone.config->vocab_count,
    };
    session_put(s, WIRE_READY, &ready, sizeof ready, NULL, 0);
    return 0;
}

/* --- adapters --- */

static void slot_close(struct session *s, struct session_slot *slot)
{
    if (slot->has_adapter) {
        engine_adapter_clear(s->engine, (uint32_t)(slot - s->slots));
        adapter_close(&slot->adapter);
    }
    if (slot->view.data != NULL)
        share_unmap(&slot->view);
    *slot = (struct session_slot){0};
}

static int open_adapter(struct session *s, struct session_slot *slot, const struct wire_bind *b,
                        int fd, struct error *err)
{
    if (fd < 0)
        return error_set(err, -EINVAL, "the adapter came without an image");
    /* Its digest was compared when the memory was filled, and the memory cannot change since. */
    int r = share_map(&slot->view, fd, IMAGE_BYTES_MAX, true, err);
    if (r == 0)
        r = adapter_open(&slot->adapter, slot->view.data, slot->view.bytes, &s->backbone,
                         &s->backbone_digest, err);
    if (r < 0)
        return r;
    r = engine_adapter_set(s->engine, b->slot, &slot->adapter, &b->adapter, err);
    if (r < 0)
        adapter_close(&slot->adapter);
    slot->has_adapter = r == 0;
    return r;
}

int session_bind(struct session *s, const struct wire_bind *b, int fd, struct error *err)
{
    cleanup_fd int own = fd;
    if (s->engine == NULL || b->slot >= SESSION_SLOTS_MAX || s->slots[b->slot].bound)
        return error_set(err, -EPROTO, "BIND does not fit this worker's state");
    if (s->has_domain && memcmp(s->domain, b->domain, sizeof s->domain) != 0)
        return error_set(err, -EPERM, "this worker belongs to another domain");
    s->has_domain = true;
    memcpy(s->domain, b->domain, sizeof s->domain);
    struct session_slot *slot = &s->slots[b->slot];
    struct error reason = {0};
    if (b->has_adapter && open_adapter(s, slot, b, own, &reason) < 0) {
        slot_close(s, slot);
        const struct answer_refusal none = {
            .status = (uint32_t)-reason.code, .code = "", .param = ""};
        session_fail(s, WIRE_FAILED_SLOT, b->slot, &none, reason.text);
        return 0;
    }
    slot->bound = true;
    struct wire_bound bound = {.slot = b->slot, .adapter_bytes = slot->view.bytes};
    session_put(s, WIRE_BOUND, &bound, sizeof bound, NULL, 0);
    return 0;
}

/* The answer to a RESIZE that takes memory away: what sequences hold stays. */
void session_resize(struct session *s, const struct wire_resize *r)
{
    if (s->engine == NULL)
        return;
    bool is_less = r->bytes < s->kv_limit_bytes;
    s->kv_limit_bytes = engine_kv_limit(s->engine, r->bytes, r->is_most != 0);
    struct wire_resize now = {.bytes = s->kv_limit_bytes < r->bytes ? r->bytes : s->kv_limit_bytes};
    if (is_less)
        session_put(s, WIRE_RESIZED, &now, sizeof now, NULL, 0);
    s->kv_limit_bytes = now.bytes;
}

void session_unbind(struct session *s, const struct wire_slot *slot)
{
    if (slot->slot < SESSION_SLOTS_MAX && s->slots[slot->slot].bound)
        slot_close(s, &s->slots[slot->slot]);
}
