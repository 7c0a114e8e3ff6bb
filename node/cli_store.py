"""`shoal store show|verify|digest`: what a swarm's members keep together, read from this node's disk."""

import argparse
import sys
from typing import TYPE_CHECKING, Any, cast

from .cli_parts import add_command, counted, data_dir_of, print_json, seen, table
from .complaint import Complaint, Exit
from .visible import visible

if TYPE_CHECKING:
    from shoal.crdt.verify import Found

    from .cli_parts import Commands

VALUE_CHARS = 100  # of one value, for people

EPILOG = """\
Every member of a swarm keeps the whole of it: who is in, and what each has contributed lately. All of it is signed by
who wrote it, and equal on all members that have heard the same: compare their digests.

examples:
  shoal store show              what the members keep
  shoal store verify            check every signature, hash and rule, offline
  shoal store digest --json     to compare with another member's
"""


def add_commands(commands: "Commands", parent: argparse.ArgumentParser) -> None:
    store = commands.add_parser(
        "store",
        help="show and verify what a swarm's members keep together",
        description="The store is what all members of a swarm know together: signed, and the same on each of them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[parent],
    )
    verbs = store.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, run, help in (
        ("show", run_show, "show the entries: key, value, who wrote it"),
        ("verify", run_verify, "check every signature, hash and rule, from the spec and this node's disk alone"),
        ("digest", run_digest, "print the digest: equal on members that have heard the same"),
    ):
        command = add_command(
            verbs, name, run, parent=parent, help=help, epilog=f"  shoal store {name}\n  shoal store {name} 3f2a --json"
        )
        command.add_argument(
            "swarm", nargs="?", metavar="SWARM", help="id, its beginning, or name; needed if there are several"
        )
        if name == "show":
            command.add_argument("--namespace", metavar="NAME", help="only this one, e.g. members")


def run_show(arguments: argparse.Namespace) -> Exit:
    from .stored import entry_of, read_store  # here: it takes a while to load

    folder, rules, found = read_store(data_dir_of(arguments), arguments.swarm)
    warn_of(found)
    namespaces = sorted(rules.namespaces)
    if arguments.namespace is not None:
        if arguments.namespace not in namespaces:
            raise Complaint(f"there is no namespace {arguments.namespace!r}, only {', '.join(namespaces)}", Exit.USAGE)
        namespaces = [arguments.namespace]
    entries = [
        entry_of(rules, namespace, path, dot, entry)
        for (namespace, path), cell in found.replica.cells()
        if namespace in namespaces
        for dot, entry in sorted(cell.entries.items())
    ]
    if arguments.json:
        print_json({"id": folder.swarm.hex(), "entries": entries})
        return Exit.OK
    if not entries:
        print("the store is empty: a member that is alone writes nothing there until another comes")
        return Exit.OK
    rows = [["namespace", "key", "value", "operation"]]
    for entry in seen(entries):
        value = in_words(entry["value"])
        shown = value if len(value) <= VALUE_CHARS else value[:VALUE_CHARS] + "..."
        rows.append([entry["namespace"], "/".join(entry["path"]), shown, f"{entry['writer'][-8:]} {entry['number']}"])
    print(table(rows))
    return Exit.OK


def in_words(value: Any) -> str:
    """A value's fields one after another."""
    if not isinstance(value, dict):
        return str(value)
    fields = cast(dict[str, Any], value)
    return ", ".join(f"{name} {field}" for name, field in fields.items())


def run_digest(arguments: argparse.Namespace) -> Exit:
    from .stored import read_store

    folder, _, found = read_store(data_dir_of(arguments), arguments.swarm)
    warn_of(found)
    digest = found.replica.digest().hex()
    print_json({"id": folder.swarm.hex(), "digest": digest}) if arguments.json else print(digest)
    return Exit.OK


def warn_of(found: "Found") -> None:
    """Of what makes the answer another than it should be."""
    for problem in found.problems:
        print(f"shoal: this store is not sound: {visible(problem)}", file=sys.stderr)


def run_verify(arguments: argparse.Namespace) -> Exit:
    from shoal.transport.identity import peer_id_of

    from .stored import read_store

    folder, _, found = read_store(data_dir_of(arguments), arguments.swarm)
    replica = found.replica
    summary: dict[str, Any] = {
        "id": folder.swarm.hex(),
        "ok": not found.problems,
        "digest": replica.digest().hex(),
        "snapshot": None if found.snapshot is None else found.snapshot.hex(),
        "writers": len(replica.context()),
        "operations": sum(replica.context().values()),
        "batches": found.batches,
        "unjudged": found.unjudged,
        "forked": [str(peer_id_of(writer)) for writer in found.forked],
        "problems": list(found.problems),
    }
    if arguments.json:
        print_json(summary)
    else:
        counts = f"{counted(summary['operations'], 'operation')} of {counted(summary['writers'], 'writer')}"
        print(f"{counts}, digest {summary['digest']}")
        for peer in found.forked:
            print(f"forked    {peer_id_of(peer)}: it signed two histories; what followed counts nowhere")
        if found.unjudged:
            print(f"waiting   {counted(found.unjudged, 'batch')} for others that have not come")
        for problem in seen(summary["problems"]):
            print(f"problem   {problem}")
        print("verified: every signature, hash and rule holds" if not found.problems else "this store is NOT sound")
    return Exit.OK if not found.problems else Exit.FAILED
