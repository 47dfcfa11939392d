#!/usr/bin/env python3
"""Measures us beside other engines on the same shapes with random weights, in alternation.

  peer.py --peer DIR_OF_LLAMA_CPP [--peer DIR_OF_IK_LLAMA_CPP] [--dir CACHE] [--json]
  peer.py --table ...      the table of goals instead: what `sllora bench table` prints

A peer is a directory with llama-bench, llama-batched-bench and llama-server (or one of these
programs), or a Python interpreter or virtual environment that has llama-cpp-python. A peer's model
files need the Python packages gguf and numpy; without a peer only Python is needed.

Each line is a cell: what `sllora bench` says, medians over the rounds, and beside it the peer's
figures; `others` is the largest share of the processors that anything else took in a round. Rounds
that were disturbed are run again, a few times.
"""
import argparse
import importlib.util
import json
import signal
import sys
import tempfile
from pathlib import Path

import peers
import table
from cells import QUANTS, SHAPES
from jobs import JOBS, Bench
from ours import Ours
from programs import Failed

HERE = Path(__file__).resolve().parent
ROUNDS = 5
ROUNDS_MAX = 99


def whole(low, high):
    def parse(text):
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"a number from {low} to {high}, not {value}")
        return value
    return parse


def arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="append", default=[], metavar="BINARY_OR_PACKAGE")
    parser.add_argument("--sllora", type=Path, default=HERE.parent.parent / "build/sllora",
                        help="the program under measurement (build/sllora)")
    parser.add_argument("--dir", type=Path, help="keep checkpoints and model files here")
    parser.add_argument("--shape", action="append", choices=SHAPES, help="only this one")
    parser.add_argument("--quant", action="append", choices=QUANTS, help="only this one")
    parser.add_argument("--cell", action="append", choices=JOBS, help="only this one")
    parser.add_argument("--threads", type=whole(1, 255), default=2)
    parser.add_argument("--runs", type=whole(1, ROUNDS_MAX), default=ROUNDS,
                        help=f"rounds of each cell ({ROUNDS})")
    parser.add_argument("--table", action="store_true", help="figures beside their goals")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser.parse_args()


def say(text):
    print(text, file=sys.stderr, flush=True)


def check(a):
    if not a.sllora.is_file():
        raise Failed(f"there is no {a.sllora}: make all builds it; --sllora names another")
    if a.peer and not all(importlib.util.find_spec(n) for n in ("gguf", "numpy")):
        raise Failed(f"a peer's model file needs the Python packages gguf and numpy, which "
                     f"{sys.executable} has not: make setup installs them into .venv")


def show(lines, a):
    for made in lines:
        if a.json:
            print(json.dumps(made), flush=True)
        else:
            print(" ".join(f"{k} {v}" for k, v in made.items()), flush=True)


def measure(a, cache):
    given = [peers.find(p) for p in a.peer]
    bench = Bench(Ours(a.sllora.resolve(), cache, a.threads), given, cache, a.threads, a.runs, say)
    rows = []
    for cell in a.cell or JOBS:
        for shape in a.shape or SHAPES:
            for quant in a.quant or QUANTS:
                say(f"{cell}, {shape}, {quant}")
                lines, more = JOBS[cell](bench, cell, shape, quant)
                rows += more
                if not a.table:
                    show(lines, a)
                elif a.json:
                    show(more, a)
    if a.table and not a.json:
        print("\n".join(table.text(rows)))


def main():
    a = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended first
    try:
        check(a)
        if a.dir is None:
            with tempfile.TemporaryDirectory(prefix="sllora-peer-") as cache:
                measure(a, Path(cache))
        else:
            a.dir.mkdir(parents=True, exist_ok=True)
            measure(a, a.dir.resolve())
    except Failed as e:
        say(f"peer.py: {e}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
