"""Our side: `sllora bench` for the same work, one JSON line."""
import json

from programs import Failed, run


def parse_lines(text):
    try:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError as e:
        raise Failed(f"sllora bench --json printed what is no JSON: {text.strip()[:200]!r}") from e


class Ours:
    def __init__(self, program, directory, threads):
        self.program = program
        self.directory = directory
        self.threads = threads

    def bench(self, name, shape, quant, *more, threads=None):
        """(its lines, what others used of the machine)."""
        out = run([self.program, "bench", name, "--shape", shape, "--quant", quant, "--dir",
                   self.directory, "--threads", threads or self.threads, "--json", *more])
        return parse_lines(out.stdout), out.others

    def measure(self, work, shape, quant, threads=None):
        """One run of the work; the line says the ceiling beside it."""
        name = "prefill" if work.tokens == 0 else "decode"
        tokens = work.tokens or work.prompt
        more = ["--runs", 1, "--tokens", tokens]
        if name != "prefill":
            more += ["--batch", work.batch]
        lines, others = self.bench(name, shape, quant, *more, threads=threads)
        if len(lines) != 1 or "tok_s" not in lines[0]:
            raise Failed(f"sllora bench {name} --json printed no single line with tok_s: {lines}")
        return {**lines[0], "others": others}

    def checkpoint(self, shape):
        """The directory of the checkpoint that `sllora bench` measures with, made if need be."""
        directory = self.directory / f"{shape}-0"
        if not directory.exists():
            run([self.program, "synth", directory, "--shape", shape, "--seed", 1])
        return directory
