"""What is measured: a kind of work, on a shape, in a format."""
from dataclasses import dataclass

SHAPES = ("qwen2.5-0.5b", "llama-3.2-1b")
PEER_QUANTS = {"bf16": "BF16", "int8": "Q8_0", "int4": "Q4_0"}  # ours: what it is measured against
QUANTS = tuple(PEER_QUANTS)


@dataclass(frozen=True)
class Work:
    name: str
    batch: int  # sequences at a time
    prompt: int  # tokens of each prompt
    tokens: int  # decoded for each sequence; 0: the prompt alone is measured


# `sllora bench` decodes after a prompt of 64 tokens; the peers are asked for the same.
PROMPT = 64
WORKS = {w.name: w for w in (
    Work("decode", 1, PROMPT, 64),
    Work("batch8", 8, PROMPT, 32),
    Work("batch16", 16, PROMPT, 32),
    Work("prefill512", 1, 512, 0),
)}
STREAMS = Work("streams", 8, PROMPT, 32)  # of `sllora bench mixed`
