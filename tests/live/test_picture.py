"""The picture of a real run: of the log that the daemon has just written."""
import concurrent.futures
import re
import subprocess
import xml.etree.ElementTree

from conftest import ADAPTERS, DEMO, SLLORA, wait_for

SVG = "{http://www.w3.org/2000/svg}"
NAMES = sorted(p.name for p in ADAPTERS.iterdir() if p.is_dir())


def sim(*arguments):
    return subprocess.run([SLLORA, "sim", *map(str, arguments)], capture_output=True, text=True,
                          timeout=120)


def burst(d):
    """Two functions of two owners, four requests each; what the answers say they used."""
    for i, name in enumerate(NAMES[:2]):
        d.deploy(name, DEMO, ADAPTERS / name, owner=f"owner{i}")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(d.client().completions.create, model=NAMES[i % 2], temperature=0,
                             prompt="The king " * (i + 1), max_tokens=3 + i) for i in range(8)]
        return [a.result().usage for a in asked]


def test_a_run_as_it_was(daemon, tmp_path):
    usage = burst(daemon)
    daemon.stop()
    drawing, page = tmp_path / "run.svg", tmp_path / "run.html"
    log = daemon.data / "events.log"
    for out in (drawing, page):
        done = sim("--log", log, "--picture", out, "--from", 0)
        assert done.returncode == 0, done.stderr
    root = xml.etree.ElementTree.fromstring(drawing.read_text())
    assert root.tag == SVG + "svg"
    texts = [t.text for t in root.iter(SVG + "text")]
    assert "2 functions on 1 device: 8 requests, 8 completed" in texts
    titles = [t.text for t in root.iter(SVG + "title")]
    told = [re.search(r"(\d+) tokens in \((\d+) cached\), (\d+) out; completed$", t)
            for t in titles if t.startswith("request ")]
    assert sorted((int(m[1]), int(m[3])) for m in told) == \
        sorted((u.prompt_tokens, u.completion_tokens) for u in usage)
    assert sum(t.startswith("backbone 0,") for t in titles) == 1
    assert page.read_text().count("<g><title>request ") == 8
    # The picture is made beside the log, which still replays.
    assert sim("--log", log).returncode == 0


def test_a_part_of_it_while_it_runs(daemon, tmp_path):
    burst(daemon)
    out = tmp_path / "run.svg"
    window = re.compile(r"0\.00 to 0\.\d\d s of a recorded run")
    # What the daemon has not handed to the system yet is not in the file.
    wait_for(lambda: daemon.cli("sim", "--picture", out, "--from", 0, "--to", 0.5).returncode == 0,
             "a picture")
    assert window.search(out.read_text())
    done = daemon.cli("sim", "--picture", out, "--from", 1e6)
    assert done.returncode == 1 and "there is nothing from" in done.stderr
    done = daemon.cli("sim", "--picture", tmp_path / "run.png")
    assert done.returncode in (1, 2) and "run.png" in done.stderr
    done = sim("--log", DEMO / "config.json", "--picture", out)
    assert done.returncode == 1 and "is no event log" in done.stderr
    assert window.search(out.read_text())  # the old one is there yet
