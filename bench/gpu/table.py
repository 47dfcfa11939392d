"""The figures of all rounds as one table: what was measured, what it is measured against, and the
goal. Pure: lines of gpu-bench and peer.py in, rows and text out."""
from statistics import median

COLUMNS = ("figure", "value", "against", "share", "goal", "met")

# Ours to the peer's: figure, our cell, the peer's, how many times at least (None: no goal).
RATIOS = (
    ("decode 1 to transformers", "decode 1", "peer decode 1", 3.0),
    ("decode adapters to peft", "decode adapters", "peer adapters", 10.0),
    ("prefill rate to transformers", "prefill rate", "peer prefill rate", None),
)


def merge(lines):
    """{cell: line}, numbers the medians of the cell's lines, in the order in which they came."""
    cells = {}
    for line in lines:
        cells.setdefault(line["cell"], []).append(line)
    return {cell: same[-1] | {k: median(s[k] for s in same) for k in ("value", "ceiling")
                              if all(k in s for s in same)} | {"rounds": len(same)}
            for cell, same in cells.items()}


def row(figure, line, against=None, share=None, at_least=None, at_most=None):
    """Goals are about the share where there is one, else about the value."""
    rated = line["value"] if share is None else share
    met = None
    if at_least is not None:
        met = rated >= at_least
    elif at_most is not None:
        met = rated <= at_most
    return {"figure": figure, "value": line["value"], "unit": line["unit"], "against": against,
            "share": share, "at_least": at_least, "at_most": at_most, "met": met,
            "rounds": line["rounds"]} | ({"how": line["how"]} if "how" in line else {})


def our_row(line):
    ceiling = line.get("ceiling")
    return row(line["cell"], line, ceiling, line["value"] / ceiling if ceiling else None,
               line.get("at_least"), line.get("at_most"))


def rows(lines, failures=()):
    """failures: [(stage, why)]."""
    cells = merge(lines)
    result = [our_row(line) for line in cells.values()]
    for figure, ours, peer, goal in RATIOS:
        if ours in cells and peer in cells:
            beside = cells[peer]["value"]
            result.append(row(figure, cells[ours], beside, cells[ours]["value"] / beside, goal))
    return result + [{"figure": stage, "failed": why} for stage, why in failures]


def number(x):
    return "-" if x is None else f"{x:.3g}" if abs(x) < 10 else f"{x:,.1f}"


def goal_text(r):
    if r["at_least"] is None and r["at_most"] is None:
        return "-"
    sign, goal = (">=", r["at_least"]) if r["at_most"] is None else ("<=", r["at_most"])
    if r["share"] is None:
        return f"{sign} {goal:g} {r['unit']}"
    return f"{sign} {goal:.0%}" if goal <= 1 else f"{sign} {goal:g} times"


def share_text(r):
    if r["share"] is None:
        return "-"
    is_ratio = r["at_least"] is not None and r["at_least"] > 1
    return f"{r['share']:.2f}" if is_ratio or r["share"] > 1.5 else f"{r['share']:.1%}"


def text(table):
    """For people: the columns, then what failed."""
    shown = [COLUMNS] + [(r["figure"], f"{number(r['value'])} {r['unit']}", number(r["against"]),
                          share_text(r), goal_text(r),
                          {True: "met", False: "missed", None: "-"}[r["met"]])
                         for r in table if "failed" not in r]
    widths = [max(len(line[i]) for line in shown) for i in range(len(COLUMNS))]
    lines = ["  ".join(t.ljust(w) if i in (0, 5) else t.rjust(w)
                       for i, (t, w) in enumerate(zip(line, widths))).rstrip() for line in shown]
    return lines + [f"{r['figure']}  failed: {r['failed']}" for r in table if "failed" in r]
