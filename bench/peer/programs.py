"""Runs a program to its end and says how much of the machine others used meanwhile: a peer whose
threads spin at barriers loses far more to a neighbour than we do, so a disturbed run says nothing.
"""
import os
import resource
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 900
TICKS_S = os.sysconf("SC_CLK_TCK")
IDLE_FIELDS = (3, 4)  # of a cpu line in /proc/stat: idle, iowait
GUEST_FIELDS_FROM = 8  # counted in user time already


class Failed(Exception):
    """A sentence that names what went wrong and how to mend it."""


@dataclass
class Output:
    stdout: str
    stderr: str
    others: float  # share of the processors that other processes, and the host, took meanwhile


def busy_seconds(stat):
    """Processor seconds spent since the start of the machine, from the text of /proc/stat."""
    fields = [int(f) for f in stat.split("\n", 1)[0].split()[1:GUEST_FIELDS_FROM + 1]]
    return sum(f for i, f in enumerate(fields) if i not in IDLE_FIELDS) / TICKS_S


def children_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Watch:
    """`others` between its making and the call, once our own children have been waited for."""

    def __init__(self):
        self.began = time.monotonic()
        self.busy = busy_seconds(Path("/proc/stat").read_text())
        self.own = children_seconds()

    def others(self):
        processors = len(os.sched_getaffinity(0))
        took = (time.monotonic() - self.began) * processors
        busy = busy_seconds(Path("/proc/stat").read_text()) - self.busy
        return max(0.0, busy - (children_seconds() - self.own)) / took


def finish(process, command):
    """What the process said; nothing that it started outlives this."""
    try:
        return process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as e:
        raise Failed(f"not finished after {TIMEOUT_S} s: {' '.join(command)}") from e
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run(command):
    """Runs it in an empty directory (some peers write logs where they stand)."""
    command = [str(c) for c in command]
    watch = Watch()
    with tempfile.TemporaryDirectory(prefix="sllora-peer-") as empty:
        try:
            process = subprocess.Popen(command, cwd=empty, text=True, errors="replace",
                                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE, start_new_session=True)
        except OSError as e:
            raise Failed(f"cannot run {command[0]}: {e.strerror}") from e
        stdout, stderr = finish(process, command)
    if process.returncode != 0:
        said = (stderr.strip() or stdout.strip()).splitlines()[-1:] or ["nothing"]
        raise Failed(f"{' '.join(command)} ended with status {process.returncode} and said: "
                     f"{said[0]}")
    return Output(stdout, stderr, watch.others())
