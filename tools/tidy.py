#!/usr/bin/env python3
"""The rules of this tree that a machine can check; `make tidy` runs it. Each finding is one line:
file:line: what is wrong. Exit status 1 when there is any.

- includes point one way (UPPER below), own header first
- lines of at most 100 columns, no tabs, no trailing blanks, files of at most 700 lines
- functions of at most 70 lines, kernels excepted
- no banned calls: what cannot be bounded or is not thread-safe
- no leftover marks, no path of one machine
- every .c of src/ is in the house format (clang-format)
- every file begins with a comment that says what it is
- the scheduler core is pure: its objects need nothing but mem* and assert, and they have no variables
- every fuzzer has a corpus, and every corpus a fuzzer
"""
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COLUMNS_MAX = 100
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 700

# What each folder of src/ may include, beside itself and base.
UPPER = {
    "base": [],
    "policy": [],
    "sched": ["policy"],
    "wire": [],
    "model": [],
    "weights": ["model"],
    "kernels": [],
    "engine": ["gpu", "kernels", "weights", "model"],
    "gpu": ["wire"],
    "gpubench": ["engine", "gpu", "kernels", "weights", "model"],
    "sandbox": [],
    "worker": ["gpubench", "engine", "gpu", "kernels", "weights", "model", "sandbox", "wire"],
    "gateway": [],
    "store": ["sched", "policy"],
    "daemon": ["gateway", "store", "sched", "policy", "sandbox", "gpu", "wire"],
    "sim": ["store", "sched", "policy"],
    "cli": ["daemon", "sim", "store", "policy", "sandbox", "gpu"],
}
# The image format is a description without code, and both sides of the wire speak of it.
ALLOWED = {("daemon/deploy.h", "weights/image.h"), ("daemon/backbones.c", "weights/image.h")}
BANNED = ["strcpy", "strcat", "sprintf", "vsprintf", "gets", "strtok", "atoi", "atol", "atof",
          "alloca", "system", "popen", "tmpnam", "mktemp", "rand", "srand", "localtime", "gmtime",
          "asctime", "ctime"]
PURE = {"memcpy", "memset", "memmove", "memcmp", "__assert_fail", "__stack_chk_fail",
        "_GLOBAL_OFFSET_TABLE_"}

findings = []


def report(path, line, text):
    findings.append(f"{path}:{line}: {text}")


def tracked(*patterns):
    out = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "--",
                          *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return [Path(p) for p in out.stdout.split("\n") if p and (ROOT / p).exists()]


def check_includes(path, lines):
    if path.parts[0] != "src":
        return
    folder = path.parts[1]
    inside = "/".join(path.parts[1:])
    allowed = UPPER.get(folder)
    if allowed is None:
        report(path, 1, f"folder {folder} has no place in the include order (tools/tidy.py)")
        return
    for number, line in enumerate(lines, 1):
        m = re.match(r'#include "([^"/]+)/([^"]+)"', line)
        if not m:
            if re.match(r'#include "', line):
                report(path, number, 'includes are written from src/: "base/error.h"')
            continue
        other, name = m.groups()
        if other in (folder, "base") or other in allowed or (inside, f"{other}/{name}") in ALLOWED:
            continue
        report(path, number, f"{folder} must not include {other}")


def check_lines(path, lines):
    limit = FILE_LINES_MAX
    if len(lines) > limit:
        report(path, len(lines), f"{len(lines)} lines, at most {limit}: cut the file")
    for number, line in enumerate(lines, 1):
        if len(line) > COLUMNS_MAX:
            report(path, number, f"{len(line)} columns, at most {COLUMNS_MAX}")
        if "\t" in line and path.name != "Makefile":
            report(path, number, "a tab")
        if line != line.rstrip():
            report(path, number, "blanks at the end")
        if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", line) and path.name != "tidy.py":
            report(path, number, "a leftover mark")
        if re.search(r"(^|[^\w.~])/(root|work|home/\w+)/", line) and path.name != "tidy.py":
            report(path, number, "a path of one machine")


def check_functions(path, lines):
    if path.parts[:2] == ("src", "kernels"):
        return
    start = None
    for number, line in enumerate(lines, 1):
        if line == "{":
            start = number
        elif line == "}" and start is not None:
            if number - start - 1 > FUNCTION_LINES_MAX:
                report(path, start, f"a function of {number - start - 1} lines, at most "
                                    f"{FUNCTION_LINES_MAX}")
            start = None


def check_banned(path, text):
    code = re.sub(r'"(\\.|[^"\\])*"', '""', re.sub(r"/\*.*?\*/", lambda m: "\n" * m.group().count("\n"),
                                                  text, flags=re.S))
    for number, line in enumerate(code.split("\n"), 1):
        for m in re.finditer(r"(?<![\w.>])(\w+)\s*\(", line):
            if m.group(1) in BANNED:
                report(path, number, f"{m.group(1)}() is banned")


def check_format(paths):
    out = subprocess.run(["clang-format", "--dry-run", *map(str, paths)], cwd=ROOT,
                         capture_output=True, text=True)
    for line in out.stderr.split("\n"):
        m = re.match(r"(\S+):(\d+):\d+: warning", line)
        if m:
            report(m.group(1), m.group(2), "not in the house format: make format")


def check_purity():
    libraries = ["build/libpolicy.a", "build/libsched.a"]
    made = subprocess.run(["make", "-s", *libraries], cwd=ROOT, capture_output=True, text=True)
    if made.returncode != 0:
        report("src/sched", 1, "does not build: " + made.stderr.strip()[-200:])
        return
    out = subprocess.run(["nm", *libraries], cwd=ROOT, capture_output=True, text=True).stdout
    defined = set(re.findall(r"^\w+ [A-Za-z] (\w+)$", out, re.M))
    for name in sorted(set(re.findall(r"^ +[Uwv] (\w+)$", out, re.M)) - defined - PURE):
        report("src/sched", 1, f"the core is not pure: it calls {name}()")
    out = subprocess.run(["objdump", "-t", *libraries], cwd=ROOT, capture_output=True,
                         text=True).stdout
    variable = r"^\w+ .{7} (\.t?data\S*|\.t?bss\S*|\*COM\*)\t\w+ (?:\.hidden )?(\w\S*)$"
    for section, name in sorted(set(re.findall(variable, out, re.M))):
        if not section.startswith(".data.rel.ro"):
            report("src/sched", 1, f"the core is not pure: {name} is a variable that stays")


def check_corpora():
    fuzzers = {path.stem[len("fuzz_"):] for path in tracked("tests/fuzz/fuzz_*.c")}
    corpora = {path.parts[3] for path in tracked("tests/fuzz/corpus/**")}
    for name in sorted(fuzzers - corpora):
        report(f"tests/fuzz/fuzz_{name}.c", 1, f"has no tests/fuzz/corpus/{name}")
    for name in sorted(corpora - fuzzers):
        report(f"tests/fuzz/corpus/{name}", 1, f"has no tests/fuzz/fuzz_{name}.c")


def main():
    sources = tracked("src/*.c", "src/*.h", "src/*.cu", "tests/*.c", "tests/*.h",
                      "bench/*.c")
    for path in sources:
        text = (ROOT / path).read_text()
        lines = text.rstrip("\n").split("\n")
        check_includes(path, lines)
        check_lines(path, lines)
        check_functions(path, lines)
        check_banned(path, text)
        if not text.startswith("/*"):
            report(path, 1, "begin with a comment that says what this file is")
    for path in tracked("*.md", "*.py", "*.sh", "Makefile", ".ci/*"):
        for number, line in enumerate((ROOT / path).read_text().split("\n"), 1):
            if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", line) and path.name != "tidy.py":
                report(path, number, "a leftover mark")
            if re.search(r"(^|[^\w.~])/(root|work|home/\w+)/", line) and path.name != "tidy.py":
                report(path, number, "a path of one machine")
    check_format(sources)
    check_purity()
    check_corpora()
    for line in findings:
        print(line)
    print(f"tidy: {len(sources)} sources, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
