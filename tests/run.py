#!/usr/bin/env python3
"""Runs the test suites, each program in its own process with a timeout.

  tests/run.py [--build DIR] [--only WORD] [--fuzz-seconds S] [--worlds N] unit|fuzz|live ...

unit  build/tests/test_*  cmocka programs
fuzz  build/tests/fuzz_*  the committed corpus, then seeded mutations of it
live  tests/live          pytest with the real clients against the real daemon

A failure prints how to run it again. The last line sums up: N passed, N failed, N skipped.
"""
import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UNIT_TIMEOUT_S = 300
WORLD_TIMEOUT_S = 0.2  # of each, beside UNIT_TIMEOUT_S, in a sanitized build
LIVE_TIMEOUT_S = 2400


class Totals:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def add(self, passed, failed, skipped):
        self.passed += passed
        self.failed += failed
        self.skipped += skipped


def environment(build):
    env = dict(os.environ)
    # Leaks are looked for in every sanitized program; a sandboxed child cannot be traced.
    env.setdefault("ASAN_OPTIONS", "detect_leaks=1:abort_on_error=0")
    env.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
    env["SLLORA_BUILD"] = str(build)
    return env


def run(command, timeout_s, env):
    began = time.monotonic()
    try:
        done = subprocess.run(command, cwd=ROOT, env=env, timeout=timeout_s, text=True,
                              errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return done.returncode, done.stdout, time.monotonic() - began
    except subprocess.TimeoutExpired as e:
        output = e.stdout or ""
        if isinstance(output, bytes):
            output = output.decode(errors="replace")
        return -1, output + f"\ntimed out after {timeout_s} s\n", time.monotonic() - began


def count_cmocka(output):
    passed = len(re.findall(r"^\[       OK \]", output, re.M))
    failed = len(set(re.findall(r"^\[  FAILED  \] (\w+)$", output, re.M)))
    skipped = len(set(re.findall(r"^\[  SKIPPED \] (\w+)$", output, re.M)))
    return passed, failed, skipped


def run_unit(build, only, worlds, totals):
    for program in sorted(build.glob("tests/test_*")):
        if program.suffix or only not in program.name:
            continue
        env, timeout_s = environment(build), UNIT_TIMEOUT_S
        if program.name == "test_worlds":
            env.setdefault("SLLORA_WORLDS", str(worlds))
            timeout_s += worlds * WORLD_TIMEOUT_S
        code, output, seconds = run([str(program)], timeout_s, env)
        passed, failed, skipped = count_cmocka(output)
        if code != 0 and failed == 0:
            failed = 1  # it crashed before it could say so
        totals.add(passed, failed, skipped)
        print(f"{'ok  ' if failed == 0 else 'FAIL'} {program.name:32} {passed:4} passed "
              f"{failed} failed {skipped} skipped {seconds:6.1f} s", flush=True)
        if failed:
            print(output[-8000:])
            print(f"run it again: {program.relative_to(ROOT)}", flush=True)


def run_fuzz(build, only, seconds, totals):
    for program in sorted(build.glob("tests/fuzz_*")):
        if program.suffix or only not in program.name:
            continue
        corpus = "tests/fuzz/corpus/" + program.name[len("fuzz_"):]
        command = [str(program), "--seconds", str(seconds), corpus]
        code, output, took = run(command, seconds + 120, environment(build))
        totals.add(code == 0, code != 0, 0)
        last = output.strip().splitlines()[-1:] or [""]
        print(f"{'ok  ' if code == 0 else 'FAIL'} {program.name:32} {last[0]} {took:6.1f} s",
              flush=True)
        if code != 0:
            seed = re.search(r"^seed (\d+)", output, re.M)
            print(output[-8000:])
            print(f"run it again: {' '.join(command)} --seed {seed.group(1) if seed else '?'}",
                  flush=True)


def run_live(build, only, totals):
    python = ROOT / ".venv/bin/python"
    command = [str(python), "-m", "pytest", "-q", "-rfEs", "-p", "no:cacheprovider",
               "tests/live"] + (["-k", only] if only else [])
    code, output, seconds = run(command, LIVE_TIMEOUT_S, environment(build))
    print(output[-20000:], flush=True)
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)",
                                                     output.strip().splitlines()[-1])}
    failed = counts.get("failed", 0) + counts.get("error", 0) + counts.get("errors", 0)
    if code not in (0, 1, 5) and failed == 0:
        failed = 1
    totals.add(counts.get("passed", 0), failed, counts.get("skipped", 0))
    if failed:
        print(f"run it again: SLLORA_BUILD={build.name} {' '.join(command[:3])} tests/live -k NAME",
              flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build")
    parser.add_argument("--only", default="", help="programs whose name holds this word")
    parser.add_argument("--fuzz-seconds", type=int, default=2)
    parser.add_argument("--worlds", type=int, default=200, help="seeded worlds of the scheduler")
    parser.add_argument("suites", nargs="+", choices=["unit", "fuzz", "live"])
    arguments = parser.parse_args()
    build = (ROOT / arguments.build).resolve()
    totals = Totals()
    for suite in arguments.suites:
        if suite == "unit":
            run_unit(build, arguments.only, arguments.worlds, totals)
        elif suite == "fuzz":
            run_fuzz(build, arguments.only, arguments.fuzz_seconds, totals)
        else:
            run_live(build, arguments.only, totals)
    if totals.passed + totals.failed == 0:
        print("no test was run: build them first (make all tests)")
        return 1
    print(f"{totals.passed} passed, {totals.failed} failed, {totals.skipped} skipped")
    return 1 if totals.failed else 0


if __name__ == "__main__":
    sys.exit(main())
