#!/usr/bin/env python3
"""Checks and times the engine on a GPU beside transformers and peft, and prints the table last.
bench/gpu/run.sh builds the program and calls this; flags of the shape are for trying it out.

Each stage is a process of its own with a limit of time: one that fails is a row that says why, and
the others go on. Ours runs before the peer and after it; figures are medians of both.
"""
import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import table

HERE = Path(__file__).resolve().parent
WHOLE_S = 590  # of ten minutes
# Seconds that a stage may take, where there are WHOLE_S.
CHECK_S = 120
MATRIX_S = 90
PEER_S = 180
OURS_S = {"decode": 60, "batch": 75, "prefill": 60, "start": 90, "upload": 75}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, required=True, help="gpu-bench")
    parser.add_argument("--card", default="gpu", help="its name, for the results")
    parser.add_argument("--spent", type=float, default=0, help="seconds that are gone already")
    parser.add_argument("--out", type=Path, help="where the rows go as JSON lines "
                                                 "(bench/gpu/results/DATE-CARD.jsonl)")
    parser.add_argument("--skip-peer", action="store_true", help="ours alone")
    parser.add_argument("--shape", default="llama-2-7b")
    for name, default in (("batch", 32), ("context", 512), ("prompt", 2048)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--steps", type=int, help="of ours and of the peer; else their own")
    parser.add_argument("--rounds", type=int, help="likewise")
    parser.add_argument("--torch-device", default="cuda")
    parser.add_argument("--matrix", type=int, default=8192)
    parser.add_argument("--seconds", type=float, default=WHOLE_S, help=f"for all of it ({WHOLE_S})")
    return parser.parse_args()


def say(text):
    print(text, file=sys.stderr, flush=True)


class Run:
    def __init__(self, a):
        self.a, self.lines, self.failures, self.times = a, [], [], []
        self.began = time.monotonic() - a.spent

    def left(self):
        return self.a.seconds - (time.monotonic() - self.began)

    def stage(self, name, command, limit):
        """The JSON lines that it printed. What went wrong is noted under its name."""
        limit = min(limit * self.a.seconds / WHOLE_S, self.left())
        if limit < 1:
            self.failures.append((name, "no time was left"))
            return []
        began = time.monotonic()
        lines, why = output_of([str(c) for c in command], limit)
        took = time.monotonic() - began
        self.times.append({"stage": name, "seconds": round(took, 1)})
        say(f"{name}: {took:.1f} s" + (f", failed: {why}" if why else ""))
        self.failures += [(name, why)] if why else []
        self.failures += [(line["stage"], line["failed"]) for line in lines if "failed" in line]
        return [line for line in lines if "failed" not in line]

    def ours(self, command, more=()):
        a = self.a
        shape = ["--shape", a.shape, "--batch", a.batch, "--context", a.context, "--prompt",
                 a.prompt, *(["--steps", a.steps] if a.steps else []),
                 *(["--rounds", a.rounds] if a.rounds else [])]
        return [a.program, "--json", *shape, *more, *command]

    def peer(self, cells):
        a = self.a
        return [sys.executable, HERE / "peer.py", *cells, "--shape", a.shape, "--batch", a.batch,
                "--context", a.context, "--prompt", a.prompt, "--torch-device", a.torch_device,
                "--matrix", a.matrix, *(["--steps", a.steps] if a.steps else []),
                *(["--rounds", a.rounds] if a.rounds else [])]

    def check(self):
        """Nothing is timed that computes wrong numbers."""
        lines = self.stage("check", self.ours(["check"]), CHECK_S)
        wrong = [line for line in lines if not line["passed"]]
        for line in wrong:
            say(f"  WRONG: {line['family']}, {line['weights']}, adapter {line['adapter']}: "
                f"{line['difference']} of at most {line['bound']}")
        self.lines.append({"cell": "comparisons in bounds", "value": len(lines) - len(wrong),
                           "unit": "", "ceiling": len(lines), "at_least": 1.0})
        return bool(lines) and not self.failures and not wrong

    def round_of_ours(self, name, matrix):
        began = time.monotonic()
        for stage, limit in OURS_S.items():
            self.lines += self.stage(f"{stage}{name}", self.ours(["figures", stage], matrix), limit)
        return time.monotonic() - began

    def figures(self):
        matrix = []
        if not self.a.skip_peer:
            lines = self.stage("matrix", self.peer(["matrix"]), MATRIX_S)
            self.lines += lines
            matrix = [v for line in lines[:1] for v in ("--matrix-tflops", f"{line['value']:.6g}")]
        took = self.round_of_ours("", matrix)
        if not self.a.skip_peer:
            cells = ["decode", "prefill", "adapters"]
            self.lines += self.stage("peer", self.peer(cells), min(PEER_S, self.left() - 5))
        if self.left() > 1.1 * took:
            self.round_of_ours(", again", matrix)
        else:
            say(f"ours only once: {self.left():.0f} s are left, and it took {took:.0f} s")


def output_of(command, limit):
    """(its JSON lines, why it failed or None)."""
    # A group of its own: workers that it started end with it (timeout signals the group).
    done = subprocess.run(["timeout", "--kill-after=5", f"{limit:.0f}", *command],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          start_new_session=True)
    lines = [json.loads(text) for text in done.stdout.splitlines() if text.startswith("{")
             and text.endswith("}")]
    if done.returncode == 0:
        return lines, None
    if done.returncode in (124, 137):
        return lines, f"it took more than {limit:.0f} s"
    last = [text for text in done.stderr.splitlines() if text.strip()][-1:]
    return lines, last[0].strip() if last else f"it ended with status {done.returncode}"


def write(run, made):
    a = run.a
    card = re.sub(r"[^a-z0-9]+", "-", a.card.lower()).strip("-")
    out = a.out or HERE / "results" / f"{time.strftime('%Y-%m-%dT%H%M')}-{card}.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    head = {"card": a.card, "shape": a.shape, "batch": a.batch, "context": a.context,
            "prompt": a.prompt, "date": time.strftime("%Y-%m-%d"), "stages": run.times}
    out.write_text("".join(json.dumps(line) + "\n" for line in [head, *made]))
    say(f"written to {out}")


def main():
    run = Run(arguments())
    if not run.check():
        say("the check failed: nothing is timed")
        return 1
    run.figures()
    made = table.rows(run.lines, run.failures)
    write(run, made)
    say(f"all of it: {time.monotonic() - run.began:.0f} s")
    print(f"{run.a.card}, {run.a.shape}, bf16, {run.a.batch} sequences, context {run.a.context}")
    print("\n".join(table.text(made)))
    return 1 if run.failures else 0


if __name__ == "__main__":
    sys.exit(main())
