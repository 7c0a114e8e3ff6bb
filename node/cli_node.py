"""`shoal node`: the daemon in the foreground, also for commands that find none running and become it."""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cli_parts import add_command, data_dir_of
from .complaint import Complaint, Exit
from .config import CONFIG_NAME, KEYS, load_config
from .local_client import LocalClient
from .logs import set_up_logs

if TYPE_CHECKING:
    from .cli_parts import Commands
    from .config import Config
    from .node import Setup

First = Callable[[], Any]


def add_commands(commands: "Commands", parent: argparse.ArgumentParser) -> None:
    node = add_command(
        commands,
        "node",
        run,
        parent=parent,
        help="run a node in the foreground, until Ctrl-C",
        epilog="""\
  shoal node                                    with the usual data directory
  shoal node --data-dir /srv/shoal --json-logs  as a service (docs/shoal.service)
  shoal node --listen /ip4/0.0.0.0/tcp/4011     on a port that your router forwards
""",
    )
    add_node_options(node)
    node.add_argument("--until-stdin-closes", action="store_true", help="stop when standard input ends")


def add_node_options(parser: argparse.ArgumentParser) -> None:
    """Flags over the settings of the same names."""
    group = parser.add_argument_group("settings (they overrule the configuration; `shoal config show` explains them)")
    group.add_argument("--listen", action="append", metavar="ADDRESS", help="listen here; may be given several times")
    group.add_argument("--announce", action="append", metavar="ADDRESS", help="put this address first into invites")
    group.add_argument(
        "--stay-connected-to", action="append", metavar="ADDRESS", help="always be connected to this node"
    )
    group.add_argument(
        "--relay", choices=("members", "everybody", "nobody"), help="for whom to pass encrypted traffic on"
    )
    group.add_argument("--relays", action="append", metavar="ADDRESS", help="be reached through this relay")
    group.add_argument("--threads", type=int, metavar="N", help="threads to train with; 0: half of the cores")
    group.add_argument("--nice", type=int, metavar="N", help="step back for other programs: 0 not at all, 19 most")
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where to train")
    group.add_argument("--disk-gb-max", type=float, metavar="GB", help="room for blobs")
    group.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="the least important line")
    group.add_argument("--json-logs", action="store_true", default=None, help="log one JSON object a line")


def add_member_options(parser: argparse.ArgumentParser) -> None:
    """The files that a member brings itself."""
    parser.add_argument("--data", metavar="PATH", help="a text of your own to train on; it stays here")
    parser.add_argument("--entry", metavar="FILE.py", help="your own copy of the file that the spec names by its hash")
    parser.add_argument("--model-dir", metavar="DIR", help="your own copy of the model that the spec names as hf:...")


def paths(arguments: argparse.Namespace) -> dict[str, str]:
    """The member's own files, absolute: the node may run in another directory."""
    given = {"data": arguments.data, "entry": arguments.entry, "model_dir": arguments.model_dir}
    return {name: str(Path(path).expanduser().absolute()) for name, path in given.items() if path is not None}


def run(arguments: argparse.Namespace) -> Exit:
    return run_foreground(arguments, None)


def configured(arguments: argparse.Namespace, data_dir: Path) -> "Config":
    """The settings of this command. Raises Complaint."""
    path = Path(arguments.config).expanduser() if arguments.config is not None else data_dir / CONFIG_NAME
    given = {key: value for key in KEYS if (value := getattr(arguments, key, None)) is not None}
    return load_config(path, given, is_required=arguments.config is not None)


def run_foreground(
    arguments: argparse.Namespace, first: First | None, arm: "Callable[[Setup], Setup]" = lambda setup: setup
) -> Exit:
    """Be the node. `first`, a blocking function, runs beside it once it answers; what it raises ends the node."""
    data_dir = data_dir_of(arguments)
    config = configured(arguments, data_dir)
    set_up_logs(config.log_level, is_json=config.json_logs)

    import trio  # here, so that the short commands do without it

    from .node import Setup
    from .stall import StallMeter

    arguments.was_node = True
    stalls = StallMeter()
    is_watching_stdin = getattr(arguments, "until_stdin_closes", False)
    setup = arm(Setup(data_dir, config, stalls, trio.Event()))
    trio.run(partial(serve, setup, first, is_watching_stdin=is_watching_stdin), instruments=[stalls])
    return Exit.OK


async def serve(setup: "Setup", first: First | None, *, is_watching_stdin: bool) -> None:
    import trio

    from . import app

    app.settle()
    stopping = setup.stopping
    async with trio.open_nursery() as nursery:
        nursery.start_soon(app.stop_on_signals, stopping)
        if is_watching_stdin:
            nursery.start_soon(app.stop_with_stdin, stopping)
        nursery.start_soon(app.run_after_start, nursery, partial(app.run_node, setup), first)
        await stopping.wait()
        app.end_process_after(app.STOP_S)
        nursery.cancel_scope.cancel()


def with_node(arguments: argparse.Namespace, command: Callable[[LocalClient, bool], Exit]) -> Exit:
    """Run `command` with the data directory's node. Where there is none, be it; `command` then runs beside it."""
    data_dir = data_dir_of(arguments)
    try:
        client = LocalClient(data_dir)
    except Complaint as complaint:
        if complaint.code is not Exit.NO_NODE:
            raise

        def first() -> None:
            with LocalClient(data_dir) as own:
                command(own, True)

        return run_foreground(arguments, first)
    given = [f"--{key.replace('_', '-')}" for key in KEYS if getattr(arguments, key, None) is not None]
    if given:
        print(f"the running node keeps its settings: {', '.join(given)} has no effect", file=sys.stderr)
    with client:
        return command(client, False)


def say_what_next(is_own: bool) -> None:
    if is_own:
        print(
            "this terminal is the node now: Ctrl-C stops it, `shoal node` starts it again, `shoal status` looks at it"
        )
    else:
        print("`shoal status` shows how it goes")
