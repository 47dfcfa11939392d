"""The lines of `sllora bench table`: each figure beside its goal."""
import goals

COLUMNS = ("cell", "value", "goal", "ours", "peer", "ceiling", "met")


def row(cell, goal, value=None, ours=None, peer=None, ceiling=None, reason=None, more=None):
    """A line of the table; without a value there is a reason."""
    result = {"cell": cell, "value": value, "goal": goal, "ours": ours, "peer": peer,
              "ceiling": ceiling, "met": None if value is None else value >= goal}
    return result | (more or {}) | ({"reason": reason or "not measured"} if value is None else {})


def name(*parts):
    return "/".join(parts)


def speed_rows(work, shape, quant, lines, failures):
    """lines: {peer's name, or None: line of the cell}; failures: {the same: reason}."""
    rows = []
    if work == "decode":
        rows.append(ceiling_row(name(work, shape, quant, "ceiling"), goals.CEILING[quant],
                                next(iter(lines.values()), None), failures.get(None)))
    peers = [p for p in [*lines, *failures] if p is not None] or ["llama.cpp"]
    for peer in dict.fromkeys(peers):
        cell = name(work, shape, quant, peer)
        goal = goals.PEER[work, shape][quant] if peer == "llama.cpp" else goals.FORK
        reason = failures.get(peer) or failures.get(None) or "no peer was given (--peer)"
        rows.append(ratio_row(cell, goal, lines.get(peer), reason))
    return rows


def ceiling_row(cell, goal, line, reason=None):
    if line is None:
        return row(cell, goal, reason=reason)
    more = {"min": line["read_share_min"], "max": line["read_share_max"],
            "others": line["others"]}
    return row(cell, goal, line["read_share"], line["tok_s"], None, line["ceiling_gb_s"],
               more=more)


def ratio_row(cell, goal, line, reason=None):
    """Against a peer, or against ourselves."""
    if line is None:
        return row(cell, goal, reason=reason)
    more = {"min": line["ratio_min"], "max": line["ratio_max"]}
    more |= {k: line[k] for k in ("others", "peer_flags") if k in line}
    return row(cell, goal, line["ratio"], line["tok_s"], line.get("peer_tok_s"),
               line.get("ceiling_gb_s"), more=more)


def text(rows):
    """For people."""
    shown = [COLUMNS] + [[cell_text(r[c]) for c in COLUMNS[:-1]] +
                         [{True: "yes", False: "no", None: r.get("reason")}[r["met"]]]
                         for r in rows]
    widths = [max(len(line[i]) for line in shown) for i in range(len(COLUMNS) - 1)]
    return ["  ".join([t.ljust(w) if i == 0 else t.rjust(w)
                       for i, (t, w) in enumerate(zip(line, widths))] + [line[-1]])
            for line in shown]


def cell_text(value):
    return "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
