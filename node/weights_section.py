"""What became of the adversaries of a run: a section of report.html with everybody's weight, and lines for people."""

from collections.abc import Mapping
from typing import Final

from .charts import Axis, Line, line_chart
from .report import Report

HONEST: Final = 6  # of charts' colours, a grey blue; the kinds of adversaries have the others
KIND_COLORS: Final = (5, 1, 3, 4, 7, 2, 0)
TITLE: Final = "Weight of each member"


def weights_chart(report: Report, names: Mapping[str, str]) -> str:
    """A line for each member, those of adversaries dashed, on top, in the colour of their kind; nothing where no weight
    is known. `names` are the members' for people.
    """
    rounds = [entry for entry in report.rounds if entry.weights]
    if not rounds:
        return ""
    kinds = list(dict.fromkeys(report.attacks[peer] for peer in report.adversaries if peer in report.attacks))
    lines: list[Line] = []
    for index, peer in enumerate((*report.honest(), *report.adversaries)):
        kind = report.attacks.get(peer, "adversary") if peer in report.adversaries else None
        points = tuple((float(entry.round), entry.weights.get(peer, 0.0)) for entry in rounds)
        if not report.adversaries:
            lines.append(Line(names[peer], points, index))
        elif kind is None:
            lines.append(Line(names[peer], points, HONEST, group=f"honest ({len(report.honest())})"))
        else:
            color = KIND_COLORS[kinds.index(kind) % len(KIND_COLORS)] if kind in kinds else KIND_COLORS[0]
            lines.append(Line(f"{names[peer]}, {kind}", points, color, is_dashed=True, group=kind))
    axis = Axis("of all weight", lambda share: f"{100 * share:.3g}%")
    return line_chart(TITLE, lines, Axis("round", lambda value: f"{value:g}", step_least=1), axis)


def fates(report: Report) -> list[str]:
    """What each kind of adversary has come to, a line each; and one if honest members were taken for such."""
    lines: list[str] = []
    for kind in dict.fromkeys(report.attacks[peer] for peer in report.nodes if peer in report.attacks):
        peers = [peer for peer in report.nodes if report.attacks.get(peer) == kind]
        lines.append(f"{kind}{f' ({len(peers)})' if len(peers) > 1 else ''}: {_fate(report, peers)}")
    wronged = [peer for peer in report.honest() if peer in report.banned or peer in report.barred]
    if wronged:
        lines.append(f"of {len(report.honest())} honest members {len(wronged)} banned or voted out")
    return lines


def _fate(report: Report, peers: list[str]) -> str:
    if not report.rounds:
        return "no round closed"
    last, count = report.rounds[-1], len(report.rounds)
    weight = sum(last.weights.get(peer, 0.0) for peer in peers)
    taken = sum(any(peer in entry.contributors for peer in peers) for entry in report.rounds)
    barred, banned = ([peer for peer in peers if peer in those] for those in (report.barred, report.banned))
    parts = [f"{100 * weight:.3g}% of all weight in the last round", f"taken in {taken} of {count} rounds"]
    if not taken:
        parts[1] = f"taken in none of {count} rounds"
    elif not weight and any(peer in last.contributors for peer in peers):
        parts[1] += ", but counts for nothing"
    for what, those in (("voted out", barred), ("banned", banned)):
        if those:
            parts.append(what if len(those) == len(peers) else f"{len(those)} of {len(peers)} {what}")
    return ", ".join(parts)
