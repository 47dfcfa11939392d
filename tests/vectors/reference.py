"""The reference side of the vectors and of the differential test: random models and adapters as
transformers and peft save them, and what these two compute for the files, in float32."""

import json
import logging
import os
import shutil
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM

CHATML = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
          "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TOKENIZER_TOKENS = 256 + len(SPECIALS)


def be_quiet():
    """peft warns of what the vectors are about; a model this small is loaded in no time."""
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.disable(logging.WARNING)


def tokenizer_files(folder, vocab, template="string"):
    """Bytes, as many as there is room for, and the special tokens; no merges: what a tokenizer does
    is another test's matter."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())[: vocab - len(SPECIALS)]
    t = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens(SPECIALS)
    t.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>",
              "bos_token": {"content": "<|endoftext|>", "lstrip": False},
              "model_max_length": 1000000000000000019884624838656}
    if template == "string":
        config["chat_template"] = CHATML
    elif template == "list":
        config["chat_template"] = [{"name": "tool_use", "template": "{{ 1 }}"},
                                   {"name": "default", "template": CHATML}]
    elif template == "jinja":
        (folder / "chat_template.jinja").write_text(CHATML)
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


def special_ids(vocab):
    first = min(vocab, TOKENIZER_TOKENS) - len(SPECIALS)
    return dict(bos_token_id=first, eos_token_id=first + 2, pad_token_id=None)


def edit_json(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content, indent=1) + "\n")


def randomize(model, seed):
    """Weights large enough that the logits are well spread, norms and biases not trivial."""
    g = torch.Generator().manual_seed(seed)
    gemma = model.config.model_type == "gemma3_text"
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=g)
        if gemma and ("post_" in name or "embed_tokens" in name):
            # what a layer adds is normed, the embedding scaled: neither may drown the other
            p.data = 1.5 + 0.2 * noise if "post_" in name else 0.3 * noise
        elif "norm" in name:
            p.data = (0 if gemma else 1) + 0.2 * noise
        elif name.endswith("bias"):
            p.data = 0.3 * noise
        elif "embed_tokens" in name:
            p.data = 0.6 * noise
        elif "lm_head" in name:
            p.data = 4 * noise / p.shape[1] ** 0.5
        else:
            p.data = 1.4 * noise / p.shape[1] ** 0.5


def save_model(folder, config, model_class, dtype, seed, template="string", shard=None):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    model = model_class(config)
    randomize(model, seed)
    model.tie_weights()
    model = model.to(dtype)
    model.save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))
    tokenizer_files(folder, config.vocab_size, template)


def train(peft, seed):
    """Every parameter that training would have changed becomes another one."""
    g = torch.Generator().manual_seed(seed)
    seen = set()
    for key, p in peft.named_parameters():
        noise = torch.randn(p.shape, generator=g)
        if not p.requires_grad or p.data_ptr() in seen:
            continue  # with ensure_weight_tying two parameters lie on one memory
        seen.add(p.data_ptr())
        if "lora_A" in key:
            p.data.copy_(noise / p.shape[1] ** 0.5)
        elif "lora_embedding_A" in key:
            p.data.copy_(0.4 * noise)
        elif "lora_B" in key or "lora_embedding_B" in key:
            p.data.copy_(0.5 * noise / p.shape[1] ** 0.5)
        elif "lora_magnitude_vector" in key:
            p.data.copy_(p * (1 + 0.3 * noise))
        else:  # a bias, or of modules_to_save
            p.data.copy_(p + 0.2 * noise)


def save_adapter(base_dir, folder, settings, seed, dtype=torch.float32, edit=None, recast=None,
                 embedding_layers="auto"):
    """As peft saves it; `edit` changes the configuration then, `recast` the tensors' type."""
    shutil.rmtree(folder, ignore_errors=True)
    base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=dtype)
    peft = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **settings),
                          autocast_adapter_dtype=False)
    train(peft, seed)
    peft.save_pretrained(folder, save_embedding_layers=embedding_layers)
    (folder / "README.md").unlink(missing_ok=True)

    def settle(config):
        config["base_model_name_or_path"] = base_dir.name
        for key in ("target_modules", "exclude_modules", "modules_to_save"):
            if isinstance(config.get(key), list):
                config[key].sort()
        if edit is not None:
            edit(config)

    edit_json(folder / "adapter_config.json", settle)
    if recast is not None:
        path = folder / "adapter_model.safetensors"
        tensors = {k: v.to(recast) for k, v in load_file(path).items()}
        save_file(tensors, path, {"format": "pt"})


def load(base_dir, adapter_dir=None):
    """What is compared with: the committed files, in float32, the adapter not merged."""
    model = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32,
                                                 attn_implementation="eager")
    if adapter_dir is not None:
        model = PeftModel.from_pretrained(model, adapter_dir)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    return model.eval()


@torch.no_grad()
def logits(model, ids):
    """[len(ids), vocab], without a cache."""
    return model(torch.tensor([ids]), use_cache=False).logits[0]
