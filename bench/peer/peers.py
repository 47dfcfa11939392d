"""A peer: llama.cpp, or its fork ik_llama.cpp, as a directory of programs or as the Python package
llama_cpp. Each is asked for the same work with each of its documented flags that may help on a
processor, and the fastest set is what it is measured with.
"""
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from programs import Failed, run

DRIVER = Path(__file__).resolve().parent / "package_driver.py"
KV_ROUND = 256  # a peer rounds the length of a sequence up to this


@dataclass
class Result:
    tok_s: float
    others: float


def parse_bench(text):
    """Tokens a second of the one test that `llama-bench -o json` printed."""
    start = text.find("[")
    try:
        [test] = json.loads(text[start:]) if start >= 0 else []
        return float(test["avg_ts"])
    except (KeyError, TypeError, ValueError) as e:
        raise Failed(f"llama-bench -o json printed no single test: {text.strip()[:200]!r}") from e


def parse_batched(text, batch):
    """Tokens a second of all sequences while decoding, from llama-batched-bench's table."""
    rows = [[c.strip() for c in line.strip().strip("|").split("|")]
            for line in text.splitlines() if line.lstrip().startswith("|")]
    header = next((r for r in rows if "S_TG t/s" in r), [])
    for row in rows:
        if header and len(row) == len(header) and re.fullmatch(r"\d+", row[0]):
            named = dict(zip(header, row))
            if int(named["B"]) == batch:
                return float(named["S_TG t/s"])
    raise Failed(f"llama-batched-bench printed no line for batch {batch}: "
                 f"{text.strip()[-200:]!r}")


class Programs:
    """A directory with llama-bench, llama-batched-bench and llama-server."""

    # In words of (llama-bench, llama-batched-bench and llama-server).
    FLASH = [(["-fa", "0"], ["-fa", "off"]), (["-fa", "1"], ["-fa", "on"])]
    REPACK = [([], []), (["-rtr", "1"], ["-rtr"])]

    def __init__(self, directory):
        self.directory = Path(directory).resolve()
        self.help = run([self.program("llama-bench"), "--help"]).stdout
        self.is_fork = "run-time-repack" in self.help
        self.name = "ik_llama.cpp" if self.is_fork else "llama.cpp"

    def program(self, name):
        path = self.directory / name
        if not path.is_file():
            raise Failed(f"{self.directory} has no {name}: build it there")
        return path

    def variants(self, work):
        """Sets of flags, each (for llama-bench, for the others)."""
        sets = self.FLASH
        if self.is_fork:
            sets = [(a + c, b + d) for a, b in sets for c, d in self.REPACK]
        elif work.batch > 1:
            sets = [(a, b + unified) for a, b in sets for unified in ([], ["-kvu"])]
        return sets

    def flags_text(self, work, variant):
        return " ".join(variant[work.batch > 1])

    def test(self, work):
        """For llama-bench: one test, of the prompt or of decoding after it."""
        if work.tokens == 0:
            return ["-p", work.prompt, "-n", 0]
        if self.is_fork:
            return ["-p", 0, "-n", 0, "-gp", f"{work.prompt},{work.tokens}"]
        return ["-p", 0, "-n", work.tokens, "-d", work.prompt]

    def measure(self, work, model, threads, variant):
        if work.batch > 1:
            length = -(-(work.prompt + work.tokens) // KV_ROUND) * KV_ROUND
            out = run([self.program("llama-batched-bench"), "-m", model, "-t", threads,
                       "-tb", threads, "-c", work.batch * length, "-npp", work.prompt,
                       "-ntg", work.tokens, "-npl", work.batch, *variant[1]])
            return Result(parse_batched(out.stdout + out.stderr, work.batch), out.others)
        out = run([self.program("llama-bench"), "-m", model, "-t", threads, "-r", 1, "-o", "json",
                   *self.test(work), *variant[0]])
        return Result(parse_bench(out.stdout), out.others)


class Package:
    """The Python package llama_cpp of an interpreter; package_driver.py runs inside that one."""

    name = "llama.cpp"
    is_fork = False

    def __init__(self, python):
        self.python = python
        try:
            run([python, "-c", "import llama_cpp"])
        except Failed as e:
            raise Failed(f"{python} has no working package llama_cpp ({e}); "
                         f"install it: {python} -m pip install llama-cpp-python") from e

    def program(self, name):
        raise Failed(f"the Python package has no {name}; give a directory of llama.cpp's programs")

    def variants(self, work):
        flash = [["--flash", "0"], ["--flash", "1"]]
        if work.batch == 1:
            return flash
        return [f + unified for f in flash for unified in ([], ["--unified"])]

    def flags_text(self, _work, variant):
        return " ".join(variant)

    def measure(self, work, model, threads, variant):
        out = run([self.python, DRIVER, model, "--threads", threads, "--batch", work.batch,
                   "--prompt", work.prompt, "--tokens", work.tokens, *variant])
        return Result(json.loads(out.stdout)["tok_s"], out.others)


def find(text):
    """A peer from what was given with --peer."""
    path = Path(text)
    if path.is_dir():
        for directory in (path, path / "bin"):
            if (directory / "llama-bench").is_file():
                return Programs(directory)
        if (path / "bin/python").exists():
            return Package(path.absolute() / "bin/python")
    elif path.is_file() and path.name.startswith("llama-"):
        return Programs(path.parent)
    elif path.is_file() and path.name.startswith("python"):
        return Package(path.absolute())
    elif text in ("llama_cpp", "llama-cpp-python"):
        return Package(sys.executable)
    raise Failed(f"no peer is \"{text}\": give a directory with llama-bench or one of its programs, "
                 "a Python interpreter or virtual environment that has llama-cpp-python, or the "
                 "word llama_cpp for the package of this interpreter")
