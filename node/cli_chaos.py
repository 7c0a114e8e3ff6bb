"""`shoal testnet --chaos`: nodes are killed, frozen and cut off while they train; in the end all must agree."""

import json
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from .complaint import Complaint, Exit, first_complaint
from .report import DONE_TO, Baseline, Chaos, Point, Report

if TYPE_CHECKING:
    from .cli_testnet import Run
    from .lan import Lan
    from .live import Display
    from .plan import Plan
    from .testnet import Testnet, TestnetNode

RECOVERY_S: Final = 90.0  # after the span, until a round is closed in which all took part
VERIFY_TIMEOUT_S: Final = 120.0
UNDISTURBED: Final = "undisturbed"  # the folder of the run to compare with


def check(plan: "Plan") -> None:
    """Refuse what cannot be carried out, before anything is started. Raises Complaint."""
    from .chaos import NODES_MIN, SPAN_MIN_S

    span_s = plan.span_s or 0.0
    if plan.chaos is None:
        return
    if plan.nodes < NODES_MIN:
        raise Complaint(
            f"--chaos needs {NODES_MIN} nodes at least: of {plan.nodes} no majority is left without one", Exit.USAGE
        )
    if span_s < SPAN_MIN_S:
        raise Complaint(f"--chaos needs {SPAN_MIN_S:g} s at least, not {span_s:g}: give it more --minutes", Exit.USAGE)
    if sys.platform == "win32":
        raise Complaint("--chaos freezes processes, which cannot be done on Windows", Exit.MISSING)


@asynccontextmanager
async def open_network(plan: "Plan", where: Path, display: "Display", run: "Run") -> "AsyncGenerator[Lan | None]":
    """A network of the nodes' own, for chaos; None where there can be none: then nobody is cut off, and it says why."""
    from .lan import obstacle, open_lan
    from .local_protocol import prefers_socket

    if plan.chaos is None:
        yield None
        return
    if prefers_socket(where / f"node-{plan.nodes}"):
        why_not = await obstacle()
    else:
        why_not = f"a node in another network is asked by a Unix socket, and {where} is too long a path for one"
    run.chaos = Chaos(seed=plan.chaos, left_out=why_not)
    if why_not:
        display.say(f"without partitions: {why_not}")
        yield None
        return
    async with open_lan(plan.nodes) as lan:
        yield lan


async def until_over(testnet: "Testnet", lan: "Lan | None", display: "Display", run: "Run") -> None:
    """Until chaos is over, all nodes are back, and their records are looked at. Raises Complaint."""
    run.last = await endure(testnet, lan, display)
    unsound = await unsound_records(testnet, display)
    assert run.chaos is not None
    run.chaos = msgspec.structs.replace(run.chaos, is_over=True, unsound=unsound)


async def endure(testnet: "Testnet", lan: "Lan | None", display: "Display") -> int:
    """Train for the plan's span while its chaos is let loose; then wait until all are back.

    Returns:
        The newest round, closed after all was over, in which all took part.

    Raises:
        Complaint: a node ended by itself or did not start again, or there was no such round in time.
    """
    import trio

    from .befalling import befall
    from .chaos import misfortunes

    plan, tally = testnet.plan, testnet.tally
    assert plan.chaos is not None
    assert plan.span_s is not None
    over_at = trio.current_time() + plan.span_s
    async with trio.open_nursery() as nursery:
        nursery.start_soon(testnet.until, lambda: False)  # raises when a node ends that should not have
        await befall(testnet, misfortunes(plan.chaos, plan.nodes, plan.span_s), lan, display.say)
        calm_after = max(tally.newest_round(node.peer) for node in testnet.nodes)
        await trio.sleep_until(over_at)
        nursery.cancel_scope.cancel()
    await testnet.until(lambda: tally.rounds_closed() >= (plan.rounds or 0))
    with trio.move_on_after(RECOVERY_S):
        await testnet.until(lambda: tally.newest_whole_round() > max(calm_after, (plan.rounds or 0) - 1))
        return tally.newest_whole_round()
    raise Complaint(f"after round {calm_after}, when all ran again, no round closed in which all took part")


async def unsound_records(testnet: "Testnet", display: "Display") -> tuple[str, ...]:
    """What `shoal log verify` says against the nodes' logs, one line each."""
    found: list[str] = []
    count = len(testnet.nodes)
    for done, node in enumerate(testnet.nodes, 1):
        fault = await _fault_in_log(node)
        found += [f"the log of node {node.index} does not verify: {fault}"] if fault else []
        display.say(f"verifying all records: {done} of {count} nodes done")  # 0.4 s each, several beside training
    display.say(f"all records of {count - len(found)} of {count} nodes verify")
    return tuple(found)


async def _fault_in_log(node: "TestnetNode") -> str:
    """Why the records of a node's log do not verify; empty if they do."""
    import trio

    command = [sys.executable, "-m", "shoal", "--data-dir", str(node.data_dir), "log", "verify", "--json"]
    with trio.move_on_after(VERIFY_TIMEOUT_S):
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
        try:
            verified = json.loads(done.stdout)
        except ValueError:
            said = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
            return said.rpartition("\n")[2]
        return "" if done.returncode == 0 and verified["ok"] else "; ".join(verified["problems"])
    return f"no answer within {VERIFY_TIMEOUT_S:g} s"


async def compare(plan: "Plan", where: Path, run: "Run") -> None:
    """Add what the same nodes reach undisturbed to the report, or why that is not known."""
    try:
        baseline = await undisturbed(plan, where, run.report.rounds[-1].round)
    except* Complaint as group:
        run.failure = first_complaint(group)
    else:
        chaos = None if run.chaos is None else msgspec.structs.replace(run.chaos, undisturbed=baseline)
        run.report = msgspec.structs.replace(run.report, chaos=chaos)


async def undisturbed(plan: "Plan", where: Path, rounds: int) -> Baseline:
    """The same nodes for so many rounds, all of them left alone. Raises Complaint."""
    from .live import open_display, shown
    from .report_html import tokens_so_far
    from .testnet import open_testnet

    with open_display(f"undisturbed: the same {plan.nodes} nodes for {rounds} rounds") as display:
        display.say(f"starting the same {plan.nodes} nodes for {rounds} rounds undisturbed, to compare with")
        async with open_testnet(plan.undisturbed(), where / UNDISTURBED) as testnet:
            await testnet.launch()
            async with shown(display, lambda: testnet.tally.view(rounds, time.monotonic())):
                await testnet.until(lambda: testnet.tally.newest_whole_round() >= rounds)
            report = testnet.tally.report(plan.method, last=rounds)
    curve = tuple(
        Point(int(tokens), entry.validation_loss)
        for tokens, entry in zip(tokens_so_far(report.rounds, report.nodes), report.rounds, strict=True)
        if entry.validation_loss is not None
    )
    return Baseline(validation_loss=report.final.validation_loss, curve=curve)


def lines_for(report: Report, chaos: Chaos) -> list[str]:
    """The key figures for a person."""
    counts = [(what, sum(each.kind == kind for each in report.events)) for kind, what in DONE_TO.items()]
    lines = [f"chaos {chaos.seed}: " + ", ".join(f"{what} {count} times" for what, count in counts if count)]
    if chaos.left_out:
        lines.append(f"without partitions: {chaos.left_out}")
    lines.append(f"agreement took {max(entry.attempts for entry in report.rounds)} attempts at most")
    if (ratio := chaos.ratio(report.final.validation_loss)) is not None and chaos.undisturbed is not None:
        lines.append(f"undisturbed: {chaos.undisturbed.validation_loss:.3f}; the loss is {ratio:.3f} times that")
    return lines


def summary(report: Report) -> dict[str, object]:
    """What the last line of --json says about it."""
    ratio = None if report.chaos is None else report.chaos.ratio(report.final.validation_loss)
    return {
        "chaos": msgspec.to_builtins(report.chaos),
        "events": msgspec.to_builtins(report.events),
        "loss_over_undisturbed": ratio,
    }
