"""The command `shoal`: its parts, and how each ends. What the commands do is in the cli_ modules."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence

import shoal

from .complaint import Complaint, Exit, only_complaint

EPILOG = """\
the first five minutes, in two terminals:
  shoal swarm create                     found a swarm: a small language model on Shakespeare's plays
  shoal --data-dir /tmp/two swarm join shoal:...   join it with the invite that the first one printed
  shoal status                           in a third terminal: what the node is doing
  shoal generate --prompt "ROMEO:"       what the model writes by now

or watch four local nodes train:  shoal testnet
when it does not connect:         shoal doctor

exit codes: 0 ok, 1 failed, 2 wrong usage, 3 no node is running, 4 directory or port in use, 5 configuration or key,
6 invite, 7 spec, 8 something is not installed, 9 disk full, 10 you said no, 130 interrupted (docs/operating.md)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. A command that was a node ends the process itself."""
    arguments = no_arguments()

    def run() -> Exit:
        parser().parse_args(argv, arguments)
        chosen: Callable[[argparse.Namespace], Exit] = arguments.run
        return chosen(arguments)

    return carry_out(run, arguments)


def no_arguments() -> argparse.Namespace:
    """Of the options that every command has, the defaults."""
    # Not set_defaults: that reaches the options shared with the commands, which would then undo what stood before them.
    return argparse.Namespace(data_dir=None, config=None, json=False, verbose=False, was_node=False)


def carry_out(run: Callable[[], Exit], arguments: argparse.Namespace) -> int:
    """Run this, which fills in `arguments`; its exit code."""
    code = int(outcome(run, arguments))
    if arguments.was_node:
        # A worker may still be in torch's C++ or wait for a keyboard: if the interpreter were taken down under it,
        # the process would abort. What is on disk is whole at every moment, so nothing is lost.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def outcome(run: Callable[[], Exit], arguments: argparse.Namespace) -> Exit:
    """How it ends; what it complains about is said in one line."""
    try:
        return run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return Exit.INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone, as `shoal peers | head` does
        return Exit.OK
    except Complaint as complaint:
        return say(complaint, arguments.verbose)
    except BaseExceptionGroup as group:
        only = only_complaint(group)
        if only is None:
            raise
        return say(only, arguments.verbose)


def say(complaint: Complaint, is_verbose: bool) -> Exit:
    """One line on standard error, behind the traceback if that is wanted."""
    if is_verbose:
        traceback.print_exception(complaint)
    print(f"shoal: {complaint}", file=sys.stderr)
    return complaint.code


def common() -> argparse.ArgumentParser:
    """The options that every command has. SUPPRESS: a command's default must not undo what stood before it."""
    parent = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    group = parent.add_argument_group("options of every command")
    group.add_argument(
        "--data-dir",
        metavar="DIR",
        help="where this node keeps its key, swarms and blobs (default: the system's place for data)",
    )
    group.add_argument("--config", metavar="FILE", help="settings to read instead of config.toml in the data directory")
    group.add_argument("--json", action="store_true", help="print JSON, for programs")
    group.add_argument("-v", "--verbose", action="store_true", help="show tracebacks behind error messages")
    return parent


def parser() -> argparse.ArgumentParser:
    """All commands."""
    # Here, not above: loading takes a third of a second, in which Ctrl-C shall be one line, too.
    from . import cli_config, cli_dht, cli_doctor, cli_log, cli_node, cli_store, cli_swarm, cli_testnet, cli_view

    parent = common()
    root = argparse.ArgumentParser(
        prog="shoal",
        description="Train models together on the computers you have: no server, no chain, no account.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[parent],
        allow_abbrev=False,
    )
    root.add_argument("--version", action="version", version=f"shoal {shoal.__version__}")
    commands = root.add_subparsers(title="commands", metavar="COMMAND", required=True)
    cli_node.add_commands(commands, parent)
    cli_config.add_commands(commands, parent)
    cli_swarm.add_commands(commands, parent)
    cli_view.add_commands(commands, parent)
    cli_doctor.add_commands(commands, parent)
    cli_store.add_commands(commands, parent)
    cli_log.add_commands(commands, parent)
    cli_dht.add_commands(commands, parent)
    cli_testnet.add_commands(commands, parent)
    return root
