"""Each kind of cell: what runs in alternation, the lines that come of it, the rows of the table.

A job gives (lines, rows): lines as `sllora bench` prints them with the peer's figures added, rows
as table.py makes them. What cannot be measured is a row with a reason.
"""
import goals
import peers
import streams
import table
from cells import PEER_QUANTS, STREAMS, WORKS
from measure import alternate, beside, fastest, line, spread
from programs import Failed

ADAPTER_RANK = 16
ADAPTER_QUANTS = ("bf16", "int8")


class Bench:
    """What all jobs share: both sides, the cache, and how many rounds."""

    def __init__(self, ours, given, cache, threads, rounds, say):
        self.ours, self.peers, self.cache = ours, given, cache
        self.threads, self.rounds, self.say = threads, rounds, say

    def model(self, shape, quant):
        """The peer's file, and the bytes of it that a token of decoding reads."""
        import model
        checkpoint = self.ours.checkpoint(shape)
        path = self.cache / f"{shape}-{quant}.gguf"
        if not path.exists():
            self.say(f"writing {path}")
        config = model.read_config(checkpoint)
        return model.write_model(checkpoint, quant, path), model.token_bytes(config, quant)

    def adapters(self, shape):
        import model
        return [model.write_adapter(self.ours.checkpoint(shape), ADAPTER_RANK, seed,
                                    self.cache / f"{shape}-adapter-{seed}.gguf")
                for seed in range(STREAMS.batch)]


def peer_side(bench, peer, work, path):
    """(run, the flags that it runs with): the fastest of its sets."""
    variants = peer.variants(work)

    def measure(variant):
        return peer.measure(work, path, bench.threads, variant)

    bench.say(f"{peer.name}: the fastest of {len(variants)} sets of flags")
    chosen = fastest(variants, measure)
    return lambda: measure(chosen), peer.flags_text(work, chosen)


def speed(bench, work, shape, quant):
    work = WORKS[work]
    cell = {"cell": table.name(work.name, shape, quant)}
    try:
        lines, failures = speed_lines(bench, work, shape, quant)
    except Failed as e:
        return [cell | {"error": str(e)}], table.speed_rows(
            work.name, shape, quant, {}, {None: str(e)} | {p.name: str(e) for p in bench.peers})
    printed = [cell | made for made in lines.values()]
    printed += [cell | {"peer": name, "error": reason} for name, reason in failures.items()]
    return printed, table.speed_rows(work.name, shape, quant, lines, failures)


def speed_lines(bench, work, shape, quant):
    """({peer: line}, or {None: ours alone}; {peer that cannot run: reason})."""
    sides = {None: lambda: bench.ours.measure(work, shape, quant)}
    described, failures = {}, {}
    sides[None]()  # warm: the checkpoint is written, the files are in the page cache
    for peer in bench.peers:
        try:
            path, token_bytes = bench.model(shape, quant)
            sides[peer.name], flags = peer_side(bench, peer, work, path)
            described[peer.name] = {"name": peer.name, "quant": PEER_QUANTS[quant],
                                    "flags": flags, "token_bytes": token_bytes}
        except Failed as e:
            failures[peer.name] = str(e)
    results = alternate(sides, bench.rounds, bench.say)
    return ({name: line(results[None], said | {"results": results[name]})
             for name, said in described.items()} or {None: line(results[None])}, failures)


# --- adapters ---

def mixed_lines(rounds):
    """{(case, how adapters are kept): the line of `sllora bench mixed`, medians of the rounds}."""
    lines = {}
    for case in rounds[0]["cases"]:
        every = [r["cases"][case] for r in rounds]
        ratio = spread([e["ratio"] for e in every])
        speeds = spread([e["tok_s"] for e in every])
        lines[case] = every[-1] | {
            "runs": len(every), "tok_s": speeds.value, "tok_s_min": speeds.low,
            "tok_s_max": speeds.high, "ratio": ratio.value, "ratio_min": ratio.low,
            "ratio_max": ratio.high, "others": max(r["others"] for r in rounds)}
    return lines


def mixed_once(bench, shape, quant):
    cases, others = {}, 0
    for kept in ADAPTER_QUANTS:
        lines, busy = bench.ours.bench("mixed", shape, quant, "--adapter-quant", kept,
                                       "--runs", 2)  # each side first once
        cases |= {(made["case"], kept): made for made in lines}
        others = max(others, busy)
    return {"cases": cases, "others": others}


def mixed_rows(shape, quant, lines, reason=None):
    wide = [table.ratio_row(table.name(case, shape, quant), goal, lines.get((case, "bf16")),
                            reason) for case, goal in goals.MIXED.items()]
    return wide + [table.ratio_row(table.name(case, shape, quant, "adapters in int8"),
                                   goals.MIXED[case], lines.get((case, "int8")), reason)
                   for case in goals.MIXED_USED]


def streams_side(bench, shape, quant):
    """llama-server with an adapter for each stream; None and a reason where there is none."""
    peer = next((p for p in bench.peers if not p.is_fork), None)
    if peer is None:
        raise Failed("llama.cpp's llama-server is measured, and no llama.cpp was given (--peer)")
    peer.program("llama-server")
    path, _ = bench.model(shape, quant)
    adapters = bench.adapters(shape)
    variants = [v[1] for v in peers.Programs.FLASH]

    def measure(flags):
        return streams.measure(peer, path, adapters, STREAMS, bench.threads, flags)

    chosen = fastest(variants, measure)
    return lambda: measure(chosen), {"name": peer.name, "quant": PEER_QUANTS[quant],
                                     "flags": " ".join(chosen), "token_bytes": 0}


def adapters(bench, _work, shape, quant):
    cell = {"cell": table.name("adapters", shape, quant)}
    peer_cell = table.name("streams_own_adapters", shape, quant, "llama-server")
    try:
        lines, against, reason = adapter_lines(bench, shape, quant)
    except Failed as e:
        return [cell | {"error": str(e)}], mixed_rows(shape, quant, {}, str(e)) + [
            table.row(peer_cell, goals.STREAMS_PEER, reason=str(e))]
    printed = [cell | made for made in [*lines.values(), against] if made]
    return printed, mixed_rows(shape, quant, lines) + [
        table.ratio_row(peer_cell, goals.STREAMS_PEER, against, reason)]


def adapter_lines(bench, shape, quant):
    """(mixed_lines(), the line beside llama-server or None, why None)."""
    sides = {None: lambda: mixed_once(bench, shape, quant)}
    sides[None]()
    said, reason = None, None
    try:
        sides["server"], said = streams_side(bench, shape, quant)
    except Failed as e:
        reason = str(e)
    results = alternate(sides, bench.rounds, bench.say)
    if said is None:
        return mixed_lines(results[None]), None, reason
    own = [r["cases"]["streams_own_adapters", "bf16"] | {"others": r["others"]}
           for r in results[None]]
    against = own[-1] | beside(own, said | {"results": results["server"]})
    return mixed_lines(results[None]), against, None


# --- long contexts, and one core ---

def longctx(bench, _work, shape, quant):
    cell = {"cell": table.name("longctx", shape, quant)}
    name = table.name(f"longctx{goals.LONG_CONTEXT}", shape, quant)
    try:
        lines, others = bench.ours.bench("longctx", shape, quant, "--runs", bench.rounds)
    except Failed as e:
        return [cell | {"error": str(e)}], [table.row(name, goals.LONG, reason=str(e))]
    long = next((m for m in lines if m.get("context") == goals.LONG_CONTEXT), None)
    if long is None:
        return lines, [table.row(name, goals.LONG, reason="no line for this context")]
    more = {"others": round(others, 3), "predicted_tok_s": long["predicted_tok_s"]}
    return [cell | made for made in lines], [table.row(
        name, goals.LONG, long["ratio"], long["tok_s"], None, long["ceiling_gb_s"], more=more)]


def cores(bench, _work, shape, quant):
    """Arithmetic doubles with the second core; memory is at its ceiling with the first."""
    cell = {"cell": table.name("cores", shape, quant)}
    prefill = table.name("prefill512", shape, quant, "2 cores against 1")
    decode = table.name("decode", shape, quant, "1 core, ceiling")
    sides = {
        "two": lambda: bench.ours.measure(WORKS["prefill512"], shape, quant, threads=2),
        "one": lambda: bench.ours.measure(WORKS["prefill512"], shape, quant, threads=1),
        "decode": lambda: bench.ours.measure(WORKS["decode"], shape, quant, threads=1),
    }
    try:
        results = alternate(sides, bench.rounds, bench.say)
    except Failed as e:
        return [cell | {"error": str(e)}], [
            table.row(prefill, goals.CORES, reason=str(e)),
            table.row(decode, goals.CEILING[quant], reason=str(e))]
    ratio = spread([a["tok_s"] / b["tok_s"] for a, b in zip(results["two"], results["one"])])
    lines = {name: line(made) for name, made in results.items()}
    both = lines["two"] | {"one_core_tok_s": lines["one"]["tok_s"], "ratio": round(ratio.value, 3),
                           "ratio_min": round(ratio.low, 3), "ratio_max": round(ratio.high, 3)}
    both.pop("ceiling_gb_s")  # arithmetic is what bounds it
    return [cell | both, cell | lines["decode"]], [
        table.ratio_row(prefill, goals.CORES, both),
        table.ceiling_row(decode, goals.CEILING[quant], lines["decode"])]


JOBS = {**{name: speed for name in WORKS}, "adapters": adapters, "longctx": longctx,
        "cores": cores}
