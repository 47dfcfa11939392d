#!/usr/bin/env python3
"""What transformers and peft make of the same work on the same GPU, and the card's matrix rate.

  peer.py matrix            the rate of one large product in bf16
  peer.py decode prefill adapters    any of them: the peer's cells

A JSON object a line. Random weights, made where they are used; nothing is fetched. A cell that
fails is a line that says why, and the others go on.
"""
import argparse
import json
import os
import time
from statistics import median

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

SHAPES = {
    "llama-2-7b": dict(vocab_size=32000, hidden_size=4096, num_hidden_layers=32,
                       num_attention_heads=32, num_key_value_heads=32, intermediate_size=11008,
                       max_position_embeddings=4096, tie_word_embeddings=False),
    "llama-3.2-1b": dict(vocab_size=128256, hidden_size=2048, num_hidden_layers=16,
                         num_attention_heads=32, num_key_value_heads=8, head_dim=64,
                         intermediate_size=8192, max_position_embeddings=131072,
                         tie_word_embeddings=True),
    "small": dict(vocab_size=300, hidden_size=96, num_hidden_layers=2, num_attention_heads=6,
                  num_key_value_heads=2, intermediate_size=160, max_position_embeddings=512,
                  tie_word_embeddings=False),
}
CELLS = ("matrix", "decode", "prefill", "adapters")
RANK = 16
WARM_STEPS = 4
SOME = 2  # adapters of those that run one after the other: they are all alike


def arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="+", choices=CELLS)
    parser.add_argument("--shape", choices=SHAPES, default="llama-2-7b")
    parser.add_argument("--torch-device", default="cuda")
    parser.add_argument("--batch", type=int, default=32, help="sequences, and adapters (32)")
    parser.add_argument("--context", type=int, default=512, help="before what is decoded (512)")
    parser.add_argument("--prompt", type=int, default=2048, help="tokens of the prefill (2048)")
    parser.add_argument("--steps", type=int, default=32, help="steps that are timed (32)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of the prefill (7)")
    parser.add_argument("--matrix", type=int, default=8192, help="rows of the product (8192)")
    return parser.parse_args()


def say(cell, value, unit, how):
    print(json.dumps({"cell": cell, "value": value, "unit": unit, "how": how}), flush=True)


class Peer:
    def __init__(self, a):
        import torch
        self.torch, self.a = torch, a
        self.device = torch.device(a.torch_device)
        torch.manual_seed(1)

    def seconds(self, call):
        """Of what the device does for it."""
        wait = self.torch.cuda.synchronize if self.device.type == "cuda" else lambda: None
        wait()
        began = time.perf_counter()
        with self.torch.inference_mode():
            result = call()
        wait()
        return time.perf_counter() - began, result

    def matrix(self):
        torch, n = self.torch, self.a.matrix
        x, y = (torch.randn(n, n, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        for _ in range(WARM_STEPS):
            x @ y
        s = median(self.seconds(lambda: x @ y)[0] for _ in range(20))
        say("ceiling matrix", 2 * n**3 / s / 1e12, "TFLOP/s", f"torch {torch.__version__}")

    def model(self):
        import transformers
        torch, shape = self.torch, SHAPES[self.a.shape]
        config = transformers.LlamaConfig(**shape)
        torch.set_default_dtype(torch.bfloat16)
        with self.device:
            model = transformers.AutoModelForCausalLM.from_config(config,
                                                                  attn_implementation="sdpa")
        torch.set_default_dtype(torch.float32)
        self.vocab = config.vocab_size
        self.name = f"transformers {transformers.__version__}, torch {torch.__version__}"
        return model.eval()

    def prompt(self, batch, tokens):
        return self.torch.randint(self.vocab, (batch, tokens), device=self.device)

    def step_s(self, model, batch, steps, **more):
        """Of a step in which `batch` sequences decode, each after its context."""
        prompt = self.prompt(batch, self.a.context)
        out = self.seconds(lambda: model(prompt, use_cache=True, logits_to_keep=1, **more))[1]

        def step():
            token = out.logits[:, -1:].argmax(-1)
            return model(token, past_key_values=out.past_key_values, use_cache=True, **more)

        times = []
        for _ in range(steps + WARM_STEPS):
            s, out = self.seconds(step)
            times.append(s)
        return median(times[WARM_STEPS:])

    def decode(self, model):
        say("peer decode 1", 1 / self.step_s(model, 1, self.a.steps), "tok/s", self.name)

    def prefill(self, model):
        prompt = self.prompt(1, self.a.prompt)
        times = [self.seconds(lambda: model(prompt, use_cache=True, logits_to_keep=1))[0]
                 for _ in range(self.a.rounds + 1)]
        say("peer prefill rate", self.a.prompt / median(times[1:]), "tok/s", self.name)

    def adapted(self, model):
        import peft
        config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules="all-linear",
                                 init_lora_weights=False, task_type="CAUSAL_LM")
        names = [f"a{i}" for i in range(self.a.batch)]
        self.torch.set_default_dtype(self.torch.bfloat16)
        with self.device:  # made there; in bf16 like the backbone
            model = peft.get_peft_model(model, config, names[0], autocast_adapter_dtype=False)
            for name in names[1:]:
                model.add_adapter(name, config, autocast_adapter_dtype=False)
        self.torch.set_default_dtype(self.torch.float32)
        self.name = f"peft {peft.__version__}, {self.name}"
        return model.eval(), names

    def in_turn(self, model, names):
        times = []
        for name in names[:SOME]:
            model.set_adapter(name)
            times.append(self.step_s(model, 1, self.a.steps // 2))
        return 1 / median(times)

    def adapters(self, model):
        """The faster of peft's two ways."""
        model, names = self.adapted(model)
        ways = {"one after the other": lambda: self.in_turn(model, names),
                "in one batch": lambda: len(names) / self.step_s(
                    model, len(names), self.a.steps // 4, adapter_names=names)}
        rates, failed = {}, []
        for way, measure in ways.items():
            try:
                rates[way] = measure()
            except Exception as e:  # whatever a library of others raises
                failed.append(f"{way}: {reason(e)}")
        if not rates:
            raise RuntimeError("; ".join(failed))
        way = max(rates, key=rates.get)
        others = [f"{w} {r:.1f} tok/s" for w, r in rates.items() if w != way] + failed
        say("peer adapters", rates[way], "tok/s", f"{way} ({'; '.join(others)}); {self.name}")


def reason(e):
    return f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"


def run(peer, cells):
    model = None
    for cell in cells:
        try:
            if cell == "matrix":
                peer.matrix()
                continue
            model = peer.model() if model is None else model
            getattr(peer, cell)(model)
        except Exception as e:  # likewise
            print(json.dumps({"stage": f"peer {cell}", "failed": reason(e)}), flush=True)


def main():
    a = arguments()
    # Adapters last: they stay in the model.
    run(Peer(a), [cell for cell in CELLS if cell in a.cells])


if __name__ == "__main__":
    main()
