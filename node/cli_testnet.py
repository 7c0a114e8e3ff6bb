"""`shoal testnet`: a whole swarm on this machine, from its start to a report."""

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from . import cli_chaos
from . import report as reports
from .attacking import explained, parse
from .cli_parts import add_command
from .complaint import Complaint, Exit, first_complaint
from .report import Chaos, GeneratedText, Report
from .testnet_summary import HTML, Written, write

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    import trio

    from .cli_parts import Commands
    from .live import Display
    from .plan import Plan
    from .tally import View
    from .testnet import Testnet

PREFIX, KEPT_PREFIX = "shoal-testnet-", "shoal-kept-testnet-"  # only the former are ever swept away
PROMPT = "KING EDWARD\n"
SAMPLE_BYTES = 240
CHAOS_MINUTES = 2.0
ROUNDS = {"diloco": 12, "zeroth": 16}  # by default

EPILOG = f"""\
  shoal testnet                            four nodes, twelve rounds, under three minutes; report/report.html shows it
  shoal testnet --compare                  and then one member alone and synchronous training, for comparison
  shoal testnet --nodes 8 --minutes 10     longer, by the clock
  shoal testnet --model gpt-0.2m --set steps=20 --set codec=int8 --json
  shoal testnet --nodes 8 --chaos 7        nodes are killed, frozen, restarted and cut off; in the end all agree
  shoal testnet --method zeroth            a pretrained model learns a task by forward passes, a byte for each direction
  shoal testnet --network home             nodes behind home routers and slow lines, that get through to one another
  shoal testnet --nodes 8 --adversaries nan=1,signflip=1   two of them attack; report.html shows what weight they get

kinds of adversaries:
{explained()}
on one machine the same --seed gives the same states, bit for bit; with --chaos the same nodes suffer at the same times
"""


@dataclass(frozen=True, slots=True)
class Options:
    """What is not about the run itself."""

    report: Path
    is_comparing: bool
    is_json: bool
    is_kept: bool


@dataclass(slots=True)
class Run:
    """What a run has got to; whoever cancels it still finds it here."""

    report: Report
    failure: Complaint | None = None  # why it got no further
    chaos: Chaos | None = None
    last: int | None = None  # the last round to report; None: the newest


def add_commands(commands: "Commands", parent: argparse.ArgumentParser) -> None:
    testnet = add_command(
        commands,
        "testnet",
        run,
        parent=parent,
        help="train on several nodes on this machine, and report",
        epilog=EPILOG,
    )
    testnet.add_argument("--nodes", type=int, default=4, metavar="N", help="how many nodes (default: 4)")
    length = testnet.add_mutually_exclusive_group()
    length.add_argument("--rounds", type=int, metavar="N", help="how many rounds (default: 12; 16 for zeroth)")
    length.add_argument("--minutes", type=float, metavar="M", help="train for so long instead")
    testnet.add_argument("--method", default="diloco", help="diloco, or zeroth: forward passes alone (default: diloco)")
    testnet.add_argument(
        "--model",
        help="model by name (default: gpt-0.8m; gpt-0.2m with --chaos; smollm2-135m for zeroth)",
    )
    testnet.add_argument("--data", help="text by name, or a file (default: shakespeare; sentiment for smollm2-135m)")
    testnet.add_argument("--seed", type=int, default=0, metavar="S", help="for keys, weights and data (default: 0)")
    testnet.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the method, as steps=20"
    )
    testnet.add_argument(
        "--report", default="report", metavar="DIR", help="where to write the report (default: report)"
    )
    testnet.add_argument("--compare", action="store_true", help="afterwards train alone and synchronously, too")
    testnet.add_argument(
        "--chaos",
        type=int,
        metavar="SEED",
        help="kill, freeze and cut off nodes as this seed says, for 2 minutes if no length is given; then compare them "
        "with each other and with an undisturbed run",
    )
    testnet.add_argument(
        "--network",
        choices=["home"],
        help="home: each node behind a router of its own, on a line of 20 Mbit/s up and 15 ms to the internet, but for "
        "one that is public and relays (Linux, with nftables and iptables)",
    )
    testnet.add_argument(
        "--adversaries",
        metavar="KIND=N,...",
        help="the last nodes attack, each kind with so many of them, as nan=1,signflip=2; how the honest ones fare "
        "decides on the run. The kinds are listed below",
    )
    testnet.add_argument("--keep", action="store_true", help="keep the nodes' data directories")


def run(arguments: argparse.Namespace) -> Exit:
    import trio

    from .plan import check

    plan = plan_of(arguments)
    check(plan)
    cli_chaos.check(plan)
    if plan.is_at_home:
        from .home_testnet import check as check_homes

        trio.run(check_homes, plan)
    options = options_of(arguments)
    return trio.run(main, plan, options)


def plan_of(arguments: argparse.Namespace) -> "Plan":
    """What the flags ask for. Raises Complaint for what cannot be run."""
    from shoal.training.data import file_name

    from .plan import CHAOS_SETTINGS, NODES_MAX, Plan, Settings

    if arguments.network and arguments.chaos is not None:
        raise Complaint("--network home and --chaos each bring a network of their own: give one of them", Exit.USAGE)
    if arguments.adversaries and (arguments.network or arguments.chaos is not None):
        raise Complaint("--adversaries attack on loopback: without --chaos and --network", Exit.USAGE)
    is_chaos, minutes, rounds = arguments.chaos is not None, arguments.minutes, arguments.rounds
    settings: Settings = CHAOS_SETTINGS if is_chaos and arguments.method == "diloco" else {}
    if rounds is None and minutes is None:
        rounds, minutes = (None, CHAOS_MINUTES) if is_chaos else (ROUNDS.get(arguments.method, 12), None)
    for name, value, least, most in (
        ("nodes", arguments.nodes, 1, NODES_MAX),
        ("rounds", rounds, 1, 100_000),
        ("minutes", minutes, 0.01, 100_000),
        ("seed", arguments.seed, 0, 2**32 - 1),
        ("chaos", arguments.chaos, 0, 2**32 - 1),
    ):
        if value is not None and not least <= value <= most:
            raise Complaint(f"--{name} {value}: expected a number from {least} to {most}", Exit.USAGE)
    model, text = task_of(arguments)
    path = Path(text).expanduser().absolute()
    data_path = path if path.is_file() else None
    data = text if data_path is None else file_name(data_path)
    if data is None:
        raise Complaint(f"--data {path} cannot be read", Exit.SPEC)
    return Plan(
        nodes=arguments.nodes,
        rounds=rounds,
        minutes=minutes,
        method=arguments.method,
        model=model,
        data=data,
        data_path=data_path,
        seed=arguments.seed,
        settings={**settings, **dict(setting_of(text) for text in arguments.set)},
        chaos=arguments.chaos,
        is_at_home=arguments.network == "home",
        adversaries=() if arguments.adversaries is None else parse(arguments.adversaries, arguments.nodes),
    )


def task_of(arguments: argparse.Namespace) -> tuple[str, str]:
    """Model and data: those that are named, else what suits the method and is here."""
    from shoal.training.evaluators import smol_problem
    from shoal.training.registry import data_folder
    from shoal.training.sentiment import NAME as SENTIMENT
    from shoal.training.smollm_file import NAME as SMOLLM

    from .plan import CHAOS_MODEL

    model, data = arguments.model, arguments.data
    if arguments.method == "zeroth" and model in (None, SMOLLM):
        missing = smol_problem(data_folder()) if data in (None, SENTIMENT) else None
        if model is not None or missing is None:
            return SMOLLM, data or SENTIMENT
        print(f"{missing}; this run trains {CHAOS_MODEL} instead", file=sys.stderr)
        return CHAOS_MODEL, "shakespeare"
    small = arguments.chaos is not None
    return model or (CHAOS_MODEL if small else "gpt-0.8m"), data or "shakespeare"


def setting_of(text: str) -> tuple[str, int | float | bool | str]:
    """`steps=20` as a key and a value: an integer, a number, true or false, else a text. Raises Complaint."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise Complaint(f"--set {text}: expected KEY=VALUE, as in --set steps=20", Exit.USAGE)
    try:
        parsed = json.loads(value)
    except ValueError:
        parsed = value
    return key, parsed if isinstance(parsed, int | float | str) else value


def options_of(arguments: argparse.Namespace) -> Options:
    """Raises Complaint if the report could not be written: better known before the training than after it."""
    folder = Path(arguments.report).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Complaint(f"cannot write the report to {folder}: {error.strerror}", Exit.DISK) from error
    return Options(folder, arguments.compare, arguments.json, arguments.keep)


async def main(plan: "Plan", options: Options) -> Exit:
    """The command. Ctrl-C ends the training, not the command, which still reports the rounds that closed."""
    import trio

    training = trio.CancelScope()

    async def stop_on_signals() -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                training.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_on_signals)
        with directory(options) as where:
            result = await run_and_report(plan, options, where, training)
        nursery.cancel_scope.cancel()
    return result


async def run_and_report(plan: "Plan", options: Options, where: Path, training: "trio.CancelScope") -> Exit:
    from .live import open_display
    from .tally import Tally

    title = f"{plan.method}: {plan.nodes} nodes train {plan.model} on {plan.data[:24]}"
    title += f"; the last {len(plan.adversaries)} attack" if plan.adversaries else ""
    run = Run(Tally(()).report(plan.method))
    with training:
        with open_display(title) as display:
            await train(plan, where, display, run)
            if options.is_comparing and run.failure is None and run.report.rounds:
                await compared(plan, run, display)
        if run.chaos is not None and run.failure is None and run.report.rounds:
            await cli_chaos.compare(plan, where, run)
    is_interrupted = training.cancelled_caught
    closed = len(run.report.rounds)
    if is_interrupted and not closed:
        raise Complaint("interrupted before the end of round 1; all nodes have ended", Exit.INTERRUPTED)
    expected = plan.rounds if plan.rounds is not None and not is_interrupted else max(1, closed)
    found = [str(run.failure)] if run.failure else []
    if is_interrupted:
        found = [f"interrupted after round {closed}; all nodes have ended; the report is {options.report / HTML}"]
    found += reports.faults(run.report, expected)
    write(run.report, found, Written(options.report, options.is_json, expected))
    code = Exit.INTERRUPTED if is_interrupted else Exit.FAILED if found else Exit.OK
    if found and not options.is_json:
        raise Complaint(found[0], code)
    return code


async def train(plan: "Plan", where: Path, display: "Display", run: Run) -> None:
    """Run the testnet. `run` then has what it got to, even if this is cancelled."""
    from .home_testnet import described, open_homes, router_of
    from .live import shown
    from .testnet import open_testnet

    before, after, figures, outcasts = "", "", dict[str, float](), dict[str, Any]()
    async with AsyncExitStack() as stack:
        lan = await stack.enter_async_context(cli_chaos.open_network(plan, where, display, run))
        places = [] if lan is None else lan.places
        if plan.is_at_home:
            display.say(described(plan))
            places = await stack.enter_async_context(open_homes(plan, where))
        testnet = await stack.enter_async_context(open_testnet(plan, where, places))

        async def look() -> None:
            nonlocal before, figures
            if plan.method == "zeroth":
                display.say("evaluating the model as it is")
                figures = await testnet.evaluate()
            else:
                before = await testnet.generate(PROMPT, SAMPLE_BYTES, plan.seed)

        try:
            display.say(f"starting {plan.nodes} nodes; to look at one: shoal --data-dir {where / 'node-0'} swarm show")
            await testnet.launch(look)
            async with shown(display, looking(testnet)):
                await (until_done(testnet) if run.chaos is None else cli_chaos.until_over(testnet, lan, display, run))
            outcasts = await testnet.outcasts()
            if before:
                after = await testnet.generate(PROMPT, SAMPLE_BYTES, plan.seed)
        except* Complaint as group:
            run.failure = await testnet.explain(first_complaint(group))
        finally:
            samples = GeneratedText(prompt=PROMPT, before=before, after=after) if after else None
            routers = tuple(router_of(node).value for node in range(plan.nodes)) if plan.is_at_home else ()
            details = {"model": plan.model, "data": plan.data, "seed": plan.seed, "samples": samples}
            details |= {"chaos": run.chaos, "routers": routers, "before": figures, "loss_per": plan.loss_per}
            details |= outcasts
            run.report = msgspec.structs.replace(testnet.tally.report(plan.method, last=run.last), **details)


async def until_done(testnet: "Testnet") -> None:
    """Until the last round is closed and evaluated, or the minutes are over. Raises Complaint."""
    import trio

    plan = testnet.plan
    with trio.move_on_after(float("inf") if plan.minutes is None else plan.minutes * 60):
        await testnet.until(lambda: testnet.tally.has_finished)


def looking(testnet: "Testnet") -> "Callable[[], View]":
    """What shows the run from now on, with what is left of its minutes."""
    span_s = testnet.plan.span_s
    over_at = None if span_s is None else time.monotonic() + span_s
    return lambda: testnet.view(None if over_at is None else max(0.0, over_at - time.monotonic()))


async def compared(plan: "Plan", run: Run, display: "Display") -> None:
    """Add the baselines to the report, or why there are none. Says a line for each evaluation."""
    from .baselines import Job, Kind, compare

    rounds, members = len(run.report.rounds), len(run.report.honest())
    display.say(f"comparing over {rounds} rounds: one member alone, and synchronous training of {members}")

    def observe(kind: "Kind", point: reports.Point) -> None:
        display.say(f"{kind}: loss {point.validation_loss:.3f} after {point.tokens:,} tokens per member")

    path = None if plan.data_path is None else str(plan.data_path)
    creator = plan.identity(0).peer_id
    job = Job(kind="alone", spec=plan.spec(), creator=creator, members=members, rounds=rounds, data_path=path)
    try:
        run.report = msgspec.structs.replace(run.report, baselines=await compare(job, observe))
    except* Complaint as group:
        run.failure = first_complaint(group)


@contextmanager
def directory(options: Options) -> "Generator[Path, None, None]":
    """Where the nodes live."""
    from shoal.transport.identity import lock_directory

    if options.is_kept:
        where = Path(tempfile.mkdtemp(prefix=KEPT_PREFIX))
        try:
            yield where
        finally:
            print(f"the nodes' data directories are kept in {where}", file=sys.stderr)
        return
    sweep(Path(tempfile.gettempdir()))
    where = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        with lock_directory(where):
            yield where
    finally:
        shutil.rmtree(where, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Remove what killed testnets left: the locks of those that live and of their nodes are held."""
    from shoal.transport.identity import IdentityError, lock_directory

    for left in parent.glob(f"{PREFIX}*"):
        try:
            if left.is_symlink() or not (left / "lock").stat().st_size:  # made a moment ago, not locked yet
                continue
            with ExitStack() as locks:
                for folder in (left, *left.glob("node-*")):
                    locks.enter_context(lock_directory(folder))
        except (OSError, IdentityError):
            continue  # in use, another user's, or another testnet has just removed it
        shutil.rmtree(left, ignore_errors=True)
