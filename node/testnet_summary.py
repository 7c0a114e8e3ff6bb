"""What `shoal testnet` leaves behind: report.json, report.html, the key figures for people, the last line of --json."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

import msgspec

from . import cli_chaos
from . import report as reports
from .report import Report
from .weights_section import fates

HTML: Final = "report.html"


@dataclass(frozen=True, slots=True)
class Written:
    """Where to, and for whom."""

    folder: Path
    is_json: bool
    rounds: int  # that were expected


def write(report: Report, found: Sequence[str], to: Written) -> None:
    """Both files, and what they say in short."""
    from .report_html import render

    json_path, html_path = to.folder / "report.json", to.folder / HTML
    reports.write(report, json_path)
    html_path.write_text(render(report, to.rounds), encoding="utf-8")
    summarize(report, html_path, sys.stderr if to.is_json else sys.stdout)
    if to.is_json:
        print("".join(f"shoal: {line}\n" for line in found), end="", file=sys.stderr, flush=True)
        print(json.dumps(summary(report, found, json_path, html_path)), flush=True)


def summarize(report: Report, html_path: Path, stream: TextIO) -> None:
    """The key figures for a person; nothing if there are none, for then the reason is what matters."""
    from .report_html import count, duration, size, visible

    final = report.final
    if not report.rounds:
        return
    lines = [""]
    if report.samples is not None:
        for name, text in (("before", report.samples.before), ("after", report.samples.after)):
            lines += [f"It wrote {name} training:", *(f"  | {line}" for line in visible(text).strip().split("\n")), ""]
    who = f"{len(report.nodes)} nodes" + (f", {len(report.adversaries)} of them adversaries," * bool(report.attacks))
    lines.append(f"{len(report.rounds)} rounds closed by {who} in {duration(report.seconds)}")
    if report.before:
        lines += _gained(report)
    else:
        lines.append(
            f"validation loss {final.validation_loss:.3f} nats per byte after {count(final.tokens_per_member)} tokens "
            f"per member; {size(final.bytes_sent_total)} sent in all"
        )
    if (base := report.baselines) is not None:
        lines.append(
            f"one member alone: {base.alone.validation_loss:.3f}; synchronous: {base.synchronous.validation_loss:.3f}"
        )
    lines += fates(report)
    if report.chaos is not None:
        lines += cli_chaos.lines_for(report, report.chaos)
    lines.append(f"report: {html_path} and report.json beside it")
    print("\n".join(lines), file=stream, flush=True)


def summary(report: Report, found: Sequence[str], json_path: Path, html_path: Path) -> dict[str, object]:
    """The last line of --json."""
    told = report.rounds[-1].state_digest.items() if report.rounds else ()
    digests = sorted({digest for peer, digest in told if peer not in report.adversaries})
    return {
        "ok": not found,
        "problems": list(found),
        "rounds": len(report.rounds),
        "seconds": round(report.seconds, 3),
        "final": msgspec.to_builtins(report.final),
        "baselines": msgspec.to_builtins(report.baselines),
        "state_digests": digests,
        **cli_chaos.summary(report),
        "adversaries": fates(report),
        "report": str(json_path),
        "html": str(html_path),
    }


def _gained(report: Report) -> list[str]:
    """What a run that began with a model that knew something made of it, and the bytes that it took."""
    final = report.final
    after = {"validation_loss": final.validation_loss, **final.metrics}
    lines: list[str] = []
    for name, value in after.items():
        was = f"{report.before[name]:.3f} -> " if name in report.before else ""
        unit = f" nats per {report.loss_per}" if name == "validation_loss" else ""
        lines.append(f"{name.replace('_', ' ')} {was}{value:.3f}{unit}")
    sent = [sum(entry.bytes_sent.get(peer, 0) for entry in report.rounds) for peer in report.nodes]
    own = [sum(entry.contribution_bytes.get(peer, 0) for entry in report.rounds) for peer in report.nodes]
    members = max(1, len(report.nodes))
    lines.append(
        f"each node contributed {sum(own) // members:,} bytes, signatures included, and sent {sum(sent) // members:,} "
        "in all, with agreement, gossip and the store"
    )
    return lines
