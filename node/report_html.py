"""report.html: a run as one page for people, with everything inside it, from nothing but the report."""

import math
from collections.abc import Collection, Mapping, Sequence
from html import escape

from .charts import STYLE, Axis, Lane, Line, Stack, Stretch, lanes_chart, line_chart, stacked_bars
from .report import DONE_TO, Event, Report, ReportedRound, Trouble, faults
from .visible import visible as visible
from .weights_section import TITLE, fates, weights_chart

BARS_MAX = 96  # more rounds than this share bars
SHORT = 6  # characters at the end of a peer id: the first eight are the same for all Ed25519 ids

PAGE_STYLE = """
*{box-sizing:border-box}html{color-scheme:light dark}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1000px;margin:0 auto;padding:32px 20px 56px}
h1{font-size:27px;margin:0 0 4px;letter-spacing:-.01em}h2{font-size:17px;margin:0 0 2px}
p{margin:0 0 12px}.soft{color:var(--soft)}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(118px,1fr));gap:12px;margin:22px 0}
.figure,section{background:var(--paper);border:1px solid var(--edge);border-radius:12px}
.figure{padding:12px 13px}
.figure b{display:block;font-size:21px;font-weight:650;letter-spacing:-.02em;white-space:nowrap}
.figure span{color:var(--soft);font-size:13px}section{padding:18px 20px;margin:16px 0}
.good{color:var(--good)}.bad{color:var(--bad)}
.two{display:grid;grid-template-columns:1fr 1fr;gap:14px}@media(max-width:720px){.two{grid-template-columns:1fr}}
pre{margin:0;padding:12px 14px;background:var(--page);border-radius:8px;white-space:pre-wrap;overflow-wrap:anywhere;
font:13px/1.5 ui-monospace,monospace;min-height:120px}
h3{font-size:13px;margin:0 0 6px;color:var(--soft);font-weight:600}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:13px;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:5px 10px;border-bottom:1px solid var(--grid);white-space:nowrap}
th{color:var(--soft);font-weight:600}
th:first-child,td:first-child{text-align:left}code{font:12.5px ui-monospace,monospace}
summary{cursor:pointer;font-weight:600;font-size:17px}details[open] summary{margin-bottom:10px}
li{margin:2px 0}
"""

TROUBLE_COLORS: Mapping[Trouble, int] = {"kill": 5, "freeze": 0, "partition": 1}
ROUNDS = Axis("round", lambda value: f"{value:g}", step_least=1)


def render(report: Report, rounds_expected: int | None = None) -> str:
    """The page. `rounds_expected` is how many rounds the run was meant to close; by default as many as it did."""
    found = faults(report, len(report.rounds) if rounds_expected is None else rounds_expected)
    title = f"{report.method} on {len(report.nodes)} nodes"
    parts = [_header(report, title), _figures(report, found), _verdict(found), _loss_section(report)]
    if report.samples is not None:
        parts.append(_samples_section(report.samples.prompt, report.samples.before, report.samples.after))
    if report.chaos is not None:
        parts.append(_chaos_section(report, report.chaos.left_out))
    parts.append(_weights_section(report))
    parts += [_bytes_section(report), _phases_section(report), _training_section(report), _incidents_section(report)]
    parts.append(_rounds_table(report))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{PAGE_STYLE}</style></head><body><main>{''.join(parts)}</main></body></html>\n"
    )


def short(peer: str) -> str:
    """A peer id for tables and legends."""
    return peer[-SHORT:]


def count(value: float) -> str:
    """1,234 as it is; above ten thousand in k, M or G."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= 10 * factor or (unit != "k" and abs(value) >= factor):
            return f"{value / factor:.4g} {unit}"
    return f"{value:,.10g}"


def size(value: float) -> str:
    """Bytes in decimal units, as networks count them."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.0f} B"


def duration(value: float) -> str:
    """Seconds, or minutes and seconds."""
    if 120 <= value < 1e9:
        return f"{int(value) // 60} min {int(value) % 60:02d} s"
    return f"{value:.3g} s"


def tokens_so_far(rounds: Sequence[ReportedRound], members: Collection[str]) -> list[float]:
    """Tokens for each of these members up to each round's end: those of their contributions that were taken."""
    total, running = 0, list[float]()
    for entry in rounds:
        total += sum(entry.tokens.get(peer, 0) for peer in entry.contributors if peer in members)
        running.append(total / max(1, len(members)))
    return running


def _header(report: Report, title: str) -> str:
    about = [part for part in (report.model, report.data and f"on {report.data}", f"seed {report.seed}") if part]
    about += [] if report.chaos is None else [f"chaos {report.chaos.seed}"]
    about += [f"adversaries: {', '.join(report.attacks[peer] for peer in report.attacks)}"] if report.attacks else []
    about += [f"routers: {', '.join(report.routers)}"] if report.routers else []
    return f'<h1>{escape(title)}</h1><p class="soft">{escape(", ".join(about))} · trained with Shoal</p>'


def _figures(report: Report, found: list[str]) -> str:
    final = report.final
    cells = [
        (f"{final.validation_loss:.3f}", f"validation loss, nats per {report.loss_per}"),
        *_metrics(report),
        (str(len(report.rounds)), f"rounds closed, all states equal: {'no' if found else 'yes'}"),
        (count(final.tokens_per_member), "tokens per member"),
        (size(final.bytes_sent_total), "sent by all members"),
        (duration(report.seconds), "training"),
    ]
    if (base := report.baselines) is not None:
        cells.append(
            (f"{base.alone.validation_loss - final.validation_loss:+.3f}", "nats per byte won over one member alone")
        )
        cells.append(
            (f"{final.validation_loss - base.synchronous.validation_loss:+.3f}", "nats per byte behind synchronous")
        )
    if report.chaos is not None and (ratio := report.chaos.ratio(final.validation_loss)) is not None:
        cells.append((f"{ratio:.3f}", "times the loss of the same members undisturbed"))
    body = "".join(f'<div class="figure"><b>{escape(big)}</b><span>{escape(text)}</span></div>' for big, text in cells)
    return f'<div class="figures">{body}</div>'


def _metrics(report: Report) -> list[tuple[str, str]]:
    """What else is known of the last state, with what it was at first."""
    return [
        (f"{value:.3f}", f"{name.replace('_', ' ')}, {report.before.get(name, 0.0):.3f} before training")
        for name, value in report.final.metrics.items()
    ]


def _verdict(found: list[str]) -> str:
    if not found:
        return (
            '<p class="good">All rounds closed; in each, all honest members computed the same state, bit for bit.</p>'
        )
    lines = "".join(f"<li>{escape(line)}</li>" for line in found)
    return f'<div class="bad"><p>This run failed:</p><ul>{lines}</ul></div>'


def _section(title: str, note: str, body: str) -> str:
    return f'<section><h2>{escape(title)}</h2><p class="soft">{escape(note)}</p>{body}</section>'


def _loss_section(report: Report) -> str:
    members = report.honest()
    places = tokens_so_far(report.rounds, members)
    note = "Of the state after each round, on text that no member trains on."
    x_axis = Axis("tokens per member", count)
    if report.rounds and not places[-1]:  # a method that counts no tokens
        places, x_axis = [float(entry.round) for entry in report.rounds], ROUNDS
    swarm = tuple(
        (
            (place, entry.validation_loss)
            for place, entry in zip(places, report.rounds, strict=True)
            if entry.validation_loss is not None
        )
    )
    lines = [Line(f"swarm of {len(members)}", swarm, 0)]
    if (base := report.baselines) is not None:
        alone = tuple((float(p.tokens), p.validation_loss) for p in base.alone.curve)
        together = tuple((float(p.tokens), p.validation_loss) for p in base.synchronous.curve)
        lines += [Line("one member alone", alone, 1, True), Line("synchronous", together, 2, True)]
        note += " Alone: the same member without a swarm. Synchronous: gradients exchanged in every step."
    if (chaos := report.chaos) is not None and chaos.undisturbed is not None:
        alone = tuple((float(p.tokens), p.validation_loss) for p in chaos.undisturbed.curve)
        lines.append(Line("the same undisturbed", alone, 4, True))
        note += " Undisturbed: the same members for as many rounds, all of them left alone."
    title = "Validation loss"
    return _section(
        title, note, line_chart(title, lines, x_axis, Axis(f"nats per {report.loss_per}", lambda value: f"{value:.4g}"))
    )


def _chaos_section(report: Report, left_out: str) -> str:
    note = "Each member's lane from the first round's start, with a mark for each round that it closed."
    if left_out:
        note += f" Without partitions: {left_out}."
    lanes = [
        Lane(
            short(peer),
            tuple(_stretch(each) for each in report.events if peer in each.nodes),
            tuple(
                (entry.closed_at[peer], f"{short(peer)} closed round {entry.round} after {entry.closed_at[peer]:.1f} s")
                for entry in report.rounds
                if peer in entry.closed_at
            ),
        )
        for peer in report.nodes
    ]
    legend = [(DONE_TO[kind], color) for kind, color in TROUBLE_COLORS.items()]
    title = "What was done to whom"
    chart = lanes_chart(title, lanes, report.seconds, legend, Axis("time", duration))
    return _section(title, note, chart)


def _stretch(event: Event) -> Stretch:
    names = ", ".join(short(peer) for peer in event.nodes)
    title = f"{names}: {DONE_TO[event.kind]} from {event.time:.1f} s to {event.until:.1f} s"
    return Stretch(event.time, event.until, TROUBLE_COLORS[event.kind], title)


def _weights_section(report: Report) -> str:
    chart = weights_chart(report, {peer: short(peer) for peer in report.nodes})
    note = "Which part of the weight of all contributions that a round took each member had."
    if report.attacks:
        note += f" Of the {len(report.nodes)} nodes {len(report.adversaries)} attacked. {'. '.join(fates(report))}."
    return _section(TITLE, note, chart) if chart else ""


def _bytes_section(report: Report) -> str:
    groups = _groups(report.rounds)
    stacks = [
        Stack(short(peer), tuple(_mean([entry.bytes_sent.get(peer, 0) for entry in group]) for group in groups), index)
        for index, peer in enumerate(report.nodes)
    ]
    return _section(
        "Bytes per round",
        "What each member sent, as it left the encrypted connection.",
        stacked_bars("Bytes sent per round", _names(groups), stacks, Axis("round", str), Axis("sent", size)),
    )


def _phases_section(report: Report) -> str:
    groups = _groups(report.rounds)
    names = list(dict.fromkeys(name for entry in report.rounds for phases in entry.phases.values() for name in phases))
    stacks = [
        Stack(
            name,
            tuple(_mean([p.get(name, 0.0) for entry in group for p in entry.phases.values()]) for group in groups),
            index,
        )
        for index, name in enumerate(names)
    ]
    return _section(
        "Time per phase",
        "The mean over members. A member that is faster than others waits for them in its exchange.",
        stacked_bars("Time per phase and round", _names(groups), stacks, Axis("round", str), Axis("seconds", duration)),
    )


def _training_section(report: Report) -> str:
    lines = [
        Line(
            short(peer),
            tuple((float(e.round), e.training_loss[peer]) for e in report.rounds if peer in e.training_loss),
            index,
        )
        for index, peer in enumerate(report.nodes)
    ]
    if not any(line.points for line in lines):
        return ""
    chart = line_chart(
        "Training loss of each member",
        lines,
        ROUNDS,
        Axis("nats per byte", lambda v: f"{v:.4g}"),
    )
    return _section(
        "Training loss of each member", "The mean over a member's own steps, on its own shard of the text.", chart
    )


def _samples_section(prompt: str, before: str, after: str) -> str:
    return _section(
        "What it writes",
        f"Continuing {prompt!r}, with the same random numbers before training and after.",
        f'<div class="two"><div><h3>before</h3><pre>{escape(visible(before))}</pre></div>'
        f"<div><h3>after</h3><pre>{escape(visible(after))}</pre></div></div>",
    )


def _incidents_section(report: Report) -> str:
    if not report.incidents:
        return ""
    rows = "".join(
        f"<li>after round {one.round}, <code>{escape(short(one.node))}</code>: {escape(one.what)}</li>"
        for one in report.incidents
    )
    return _section("What else happened", "Nodes that went, came back or complained.", f"<ul>{rows}</ul>")


def _rounds_table(report: Report) -> str:
    rows: list[str] = []
    for entry in report.rounds:
        digests = sorted(set(entry.state_digest.values()))
        rows.append(
            f"<tr><td>{entry.round}</td><td>{_loss(entry)}</td><td>{entry.seconds:.1f} s</td>"
            f"<td>{entry.attempts}</td>"
            f"<td>{', '.join(escape(short(peer)) for peer in entry.contributors)}</td>"
            f"<td>{size(sum(entry.bytes_sent.values()))}</td>"
            f"<td><code>{' '.join(digest[:12] for digest in digests)}</code></td></tr>"
        )
    return (
        "<section><details><summary>All rounds</summary><div class='scroll'><table><thead><tr><th>round</th>"
        "<th>validation loss</th><th>time</th><th>attempts</th><th>contributors</th><th>sent</th><th>state digest</th>"
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div></details></section>"
    )


def _loss(entry: ReportedRound) -> str:
    return "" if entry.validation_loss is None else f"{entry.validation_loss:.4f}"


def _groups(rounds: Sequence[ReportedRound]) -> list[Sequence[ReportedRound]]:
    """Consecutive rounds that share a bar; one each while they are few."""
    width = max(1, math.ceil(len(rounds) / BARS_MAX))
    return [rounds[start : start + width] for start in range(0, len(rounds), width)]


def _names(groups: Sequence[Sequence[ReportedRound]]) -> list[str]:
    return [str(group[0].round) if len(group) == 1 else f"{group[0].round}-{group[-1].round}" for group in groups]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
