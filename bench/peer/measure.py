"""Sides in alternation: within a round each side runs once, and the next round begins with the next
side; so a machine that is faster for a while is faster for all. A figure is the median of the
rounds, a ratio the median of the ratios within the rounds.
"""
import time
from dataclasses import dataclass
from statistics import median

from programs import Watch

QUIET_SAMPLE_S = 0.5
QUIET_WAIT_S = 60
OTHERS_MAX = 0.05  # of the processors; a round that others disturbed more is run again
REPEATS_MAX = 3  # rounds run again, for each one asked for
TRIALS = 2  # rounds to choose the flags of a peer


@dataclass
class Spread:
    value: float
    low: float
    high: float


def spread(values):
    return Spread(median(values), min(values), max(values))


def ratios(ours, peer):
    return spread([a / b for a, b in zip(ours, peer, strict=True)])


def wait_for_quiet():
    """Until nobody else uses the machine, but not for ever."""
    end = time.monotonic() + QUIET_WAIT_S
    while time.monotonic() < end:
        watch = Watch()
        time.sleep(QUIET_SAMPLE_S)
        if watch.others() <= OTHERS_MAX:
            return


def alternate(sides, rounds, say, ready=wait_for_quiet):
    """sides: {name: run()}, whose results have `others`. Returns {name: [result]}, a list as long
    as `rounds`. When the machine never becomes quiet, the quietest rounds are kept."""
    names = list(sides)
    done = []
    for turn in range(rounds * (1 + REPEATS_MAX)):
        ready()
        order = names[turn % len(names):] + names[:turn % len(names)]
        results = {name: sides[name]() for name in order}
        disturbed = max(share_of_others(r) for r in results.values())
        done.append((disturbed, turn, results))
        if sum(d <= OTHERS_MAX for d, _, _ in done) == rounds:
            break
        if disturbed > OTHERS_MAX:
            say(f"others used {disturbed:.0%} of the processors: once more")
    kept = sorted(sorted(done, key=lambda d: d[:2])[:rounds], key=lambda d: d[1])
    return {name: [results[name] for _, _, results in kept] for name in names}


def share_of_others(result):
    return result["others"] if isinstance(result, dict) else result.others


def fastest(variants, measure, ready=wait_for_quiet):
    """The variant with the best single run: a disturbed run is slower, never faster. It warms the
    peer too, and shows whether it works at all."""
    best = [0.0] * len(variants)
    for _ in range(TRIALS):
        ready()
        best = [max(b, measure(v).tok_s) for b, v in zip(best, variants, strict=True)]
    return variants[best.index(max(best))]


def read_shares(ours):
    """What each run reached of the read ceiling beside it."""
    return [o["gb_s"] / o["ceiling_gb_s"] for o in ours]


def line(ours, peer=None):
    """The line of a cell: our keys with medians, and what the peer did beside them.

    ours: our lines, one a round; peer: see beside().
    """
    middle = {k: round(median(o[k] for o in ours), 3) for k, v in ours[-1].items()
              if isinstance(v, float)}
    speeds, shares = spread([o["tok_s"] for o in ours]), spread(read_shares(ours))
    result = ours[-1] | middle
    result |= {"runs": len(ours), "tok_s_min": speeds.low, "tok_s_max": speeds.high,
               "read_share": round(shares.value, 3), "read_share_min": round(shares.low, 3),
               "read_share_max": round(shares.high, 3),
               "others": round(max(o["others"] for o in ours), 3)}
    return result | (beside(ours, peer) if peer else {})


def beside(ours, peer):
    """peer: {"name", "quant", "flags", "token_bytes", "results"}, results in the rounds of ours."""
    results = peer["results"]
    speeds = spread([r.tok_s for r in results])
    ratio = ratios([o["tok_s"] for o in ours], [r.tok_s for r in results])
    said = {"peer": peer["name"], "peer_quant": peer["quant"], "peer_flags": peer["flags"],
            "peer_tok_s": round(speeds.value, 2), "peer_tok_s_min": round(speeds.low, 2),
            "peer_tok_s_max": round(speeds.high, 2), "ratio": round(ratio.value, 3),
            "ratio_min": round(ratio.low, 3), "ratio_max": round(ratio.high, 3),
            "others": round(max(s["others"] if isinstance(s, dict) else s.others
                                for s in ours + results), 3)}
    if ours[0].get("batch") == 1 and peer["token_bytes"]:
        said["peer_read_share"] = round(median(
            r.tok_s * peer["token_bytes"] / 1e9 / o["ceiling_gb_s"]
            for o, r in zip(ours, results, strict=True)), 3)
    return said
