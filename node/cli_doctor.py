"""`shoal doctor`: what is wrong, and what to do about it."""

import argparse
import logging
import sys
from typing import TYPE_CHECKING, Any, Final

from .cli_node import configured
from .cli_parts import add_command, data_dir_of, print_json, seen
from .complaint import Complaint, Exit
from .local_client import LocalClient

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .cli_parts import Commands

ANSWER_S: Final = 60.0  # for one check: longer than the slowest
MARKS: Final = {"ok": "ok", "skipped": "-", "warning": "!", "failure": "FAIL"}
CLEAR: Final = "\r\x1b[K"
CODES: Final = {  # as the commands that fail for the same cause; all others 1
    "no_node": Exit.NO_NODE,
    "directory": Exit.CONFIG,
    "key": Exit.CONFIG,
    "disk": Exit.DISK,
    "port": Exit.IN_USE,
}

EPILOG: Final = """\
  shoal doctor                            this machine, its node, and whether others can reach it
  shoal doctor 3Fx9aQ2b                   the way to a peer whose id begins or ends so (`shoal peers`)
  shoal doctor /ip4/203.0.113.7/tcp/4011/p2p/12D3KooW...
  shoal doctor shoal:...                  whether anybody answers at an invite's addresses; joins nothing
  shoal doctor --json | jq -r .verdict

One line a check: `ok`, `!` for what could be better, `FAIL`, or `-` for what was skipped. The verdict names the one
cause that explains the others, the advice what to do about it. Without a running node it checks what can be checked on
this machine. It changes nothing, and takes some seconds.

exit codes: 0 it works, 1 something is wrong, 3 no node is running, 4 its port is taken, 5 directory or key, 9 disk
"""


def add_commands(commands: "Commands", parent: argparse.ArgumentParser) -> None:
    doctor = add_command(
        commands,
        "doctor",
        run_doctor,
        parent=parent,
        help="find out what is wrong with this node's connections, or with the way to a peer",
        epilog=EPILOG,
    )
    doctor.add_argument("target", nargs="?", metavar="PEER|INVITE", help="a peer's id or address, or an invite")


def run_doctor(arguments: argparse.Namespace) -> Exit:
    findings: list[dict[str, Any]] = []
    diagnosis: dict[str, Any] = {}
    for event in events(arguments):
        if "finding" in event:
            findings.append(event["finding"])
        diagnosis = event.get("diagnosis", diagnosis)
        if not arguments.json:
            say(seen(event))
    if arguments.json:
        print_json({**diagnosis, "findings": findings})
    return Exit.OK if diagnosis["is_fine"] else CODES.get(diagnosis["verdict"], Exit.FAILED)


def events(arguments: argparse.Namespace) -> "Iterator[dict[str, Any]]":
    """What the node says, up to its verdict; or, where none runs, what this machine says. Raises Complaint."""
    data_dir = data_dir_of(arguments)
    try:
        node = LocalClient(data_dir, timeout_s=ANSWER_S)
    except Complaint as complaint:
        if complaint.code is not Exit.NO_NODE:
            raise
        yield from stopped(arguments)
        return
    with node:
        for event in node.stream("doctor", target=arguments.target):
            yield event
            if "diagnosis" in event:
                return
    raise Complaint(f"the node of {data_dir} ended before it had a verdict", Exit.NO_NODE)


def stopped(arguments: argparse.Namespace) -> "Iterator[dict[str, Any]]":
    """As a node's events. Raises Complaint if the settings cannot be read."""
    from .diagnosis import diagnose, diagnosis_as_json, finding_as_json
    from .local_checks import check_stopped

    logging.getLogger("shoal").setLevel(logging.ERROR)  # what it would warn of is among the findings
    data_dir = data_dir_of(arguments)
    findings = check_stopped(data_dir, configured(arguments, data_dir))
    yield from ({"finding": finding_as_json(each)} for each in findings)
    yield {"diagnosis": diagnosis_as_json(diagnose(findings))}


def say(event: dict[str, Any]) -> None:
    """For people; what is under way only where it can be wiped out again."""
    if sys.stderr.isatty():
        sys.stderr.write(CLEAR + (f"{event['doing']} ..." if "doing" in event else ""))
        sys.stderr.flush()
    if "finding" in event:
        finding = event["finding"]
        subject = finding["subject"] or ""
        if subject.startswith("/"):  # whose it is the verdict says, or the command
            subject = subject.rpartition("/p2p/")[0]
        subject += ": " if subject else ""
        print(f"{MARKS[finding['state']]:<5}{finding['check']:<13}{subject}{finding['words']}", flush=True)
    if "diagnosis" in event:
        print(f"\nverdict  {event['diagnosis']['words']}\nadvice   {event['diagnosis']['advice']}", flush=True)
