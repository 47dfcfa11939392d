"""What the figures are to reach: the one table of goals, as printed by `sllora bench table`."""
from cells import QUANTS, SHAPES

# At least so much of the read ceiling that was measured beside it.
CEILING = dict(zip(QUANTS, (0.95, 0.92, 0.90)))

# At least so many times llama.cpp's tokens a second: (work, shape): bf16, int8, int4.
_BOTH = {
    "batch8": (2.0, 2.7, 2.2),
    "batch16": (2.3, 3.0, 2.2),
    "prefill512": (1.5, 2.4, 1.6),
}
PEER = {
    ("decode", "qwen2.5-0.5b"): dict(zip(QUANTS, (1.08, 1.2, 1.15))),
    ("decode", "llama-3.2-1b"): dict(zip(QUANTS, (1.03, 1.15, 1.02))),
    **{(work, shape): dict(zip(QUANTS, goals)) for work, goals in _BOTH.items()
       for shape in SHAPES},
}
# The fork made for processors is to be left behind in every cell.
FORK = 1.0

# Eight streams, each with its own adapter, against llama-server, which runs them one by one.
STREAMS_PEER = 5.0

# Cases of `sllora bench mixed`: with adapters against without.
MIXED = {
    "streams_own_adapters": 0.90,
    "stream_one_adapter": 0.96,
    "streams_none_used": 0.995,  # set and not used by any stream, against none set
    "stream_many_set": 0.99,  # 32 set and one used, against one set: the same but for noise
}

# Of them, those in which an adapter is used: with adapters in int8 too.
MIXED_USED = ("streams_own_adapters", "stream_one_adapter")

# `sllora bench longctx` at this context, against what the added bytes predict.
LONG_CONTEXT = 8192
LONG = 0.9

# Two cores against one where arithmetic bounds; where memory does, one core is at its ceiling too.
CORES = 1.8
