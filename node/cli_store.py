"""`shoal store show|verify|digest`: what a swarm's members keep together, read from this node's disk.

Nothing is believed, and nobody is asked: the spec and the bytes on disk tell all. A running node, whose file is its
alone, makes a copy.
"""

import argparse
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from shoal.crdt.dots import Cell, Dot, Entry
from shoal.crdt.rules import Rules
from shoal.crdt.store import Store, StoreError
from shoal.crdt.verify import Found, verify
from shoal.training.namespaces import STORE_NAME, rules_of
from shoal.transport.identity import peer_id_of
from shoal.transport.wire import Malformed, decode

from .app import take_directory
from .cli_parts import add_command, counted, data_dir_of, print_json, seen, table
from .complaint import Complaint, Exit
from .local_client import LocalClient
from .membership import SwarmFolder, choose, known_folders

if TYPE_CHECKING:
    from .cli_parts import Commands

SWARMS_NAME = "swarms"
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
            command.add_argument("--namespace", metavar="NAME", help="only this one: members or contributions")


def found_in(arguments: argparse.Namespace) -> tuple[SwarmFolder, Rules, Found]:
    """The swarm's store, verified. Raises Complaint."""
    data_dir = data_dir_of(arguments)
    read = {folder: folder.read()[1] for folder in known_folders(data_dir / SWARMS_NAME)}
    id = choose(arguments.swarm, {folder.swarm.hex(): spec.name for folder, spec in read.items()})
    (folder,) = [folder for folder in read if folder.swarm.hex() == id]
    rules = rules_of(read[folder])
    try:
        with stored(data_dir, folder) as path, Store(path, folder.swarm) as store:
            loaded = store.load()
            snapshot = None
            if loaded.snapshot is not None:
                snapshot = list(loaded.snapshot.pieces), loaded.snapshot.digest
            return folder, rules, verify(folder.swarm, rules, snapshot, loaded.batches)
    except StoreError as error:
        raise Complaint(str(error), Exit.DISK) from error


@contextmanager
def stored(data_dir: Path, folder: SwarmFolder) -> Generator[Path]:
    """The file to read: a copy that the running node makes of it, or, where none runs, itself. Raises Complaint."""
    try:
        client = LocalClient(data_dir)
    except Complaint as complaint:
        if complaint.code is not Exit.NO_NODE:
            raise
        path = folder.rounds / STORE_NAME
        if not path.exists():
            raise Complaint(f"there is no {path} yet: the node makes it when it first runs the swarm") from complaint
        with take_directory(data_dir):
            yield path
        return
    with client:
        path = Path(client.call("store.copy", swarm=folder.swarm.hex())["path"])
    try:
        yield path
    finally:
        for name in (path.name, f"{path.name}-wal", f"{path.name}-journal"):
            path.with_name(name).unlink(missing_ok=True)


def run_show(arguments: argparse.Namespace) -> Exit:
    folder, rules, found = found_in(arguments)
    namespaces = sorted(rules.namespaces)
    if arguments.namespace is not None:
        if arguments.namespace not in namespaces:
            raise Complaint(f"there is no namespace {arguments.namespace!r}, only {', '.join(namespaces)}", Exit.USAGE)
        namespaces = [arguments.namespace]
    entries = [
        entry_of(rules, namespace, path, dot, entry)
        for (namespace, path), cell in found.replica.cells()
        if namespace in namespaces
        for dot, entry in sorted_entries(cell)
    ]
    if arguments.json:
        print_json({"id": folder.swarm.hex(), "entries": entries})
        return Exit.OK
    if not entries:
        print("the store is empty: nobody has written yet, or nothing has arrived here")
        return Exit.OK
    rows = [["namespace", "key", "value", "operation"]]
    for entry in seen(entries):
        value = str(entry["value"])
        shown = value if len(value) <= VALUE_CHARS else value[:VALUE_CHARS] + "..."
        rows.append([entry["namespace"], "/".join(entry["path"]), shown, f"{entry['writer'][-8:]} {entry['number']}"])
    print(table(rows))
    return Exit.OK


def sorted_entries(cell: Cell) -> list[tuple[Dot, Entry]]:
    return sorted(cell.entries.items())


def entry_of(rules: Rules, namespace: str, path: tuple[str, ...], dot: Dot, entry: Entry) -> dict[str, Any]:
    """One entry as JSON: a typed value by the names of its fields, other bytes in hex."""
    schema = rules.namespaces[namespace].schema
    value = entry.value if schema is None else decode(entry.value, schema, len(entry.value))
    return {
        "namespace": namespace,
        "path": list(path),
        "value": plain(entry.value if isinstance(value, Malformed) else value),
        "writer": str(peer_id_of(dot.writer)),
        "number": dot.number,
    }


def plain(value: Any) -> Any:
    """A message as tables, lists and text."""
    match value:
        case bytes():
            return value.hex()
        case msgspec.Struct():
            return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
        case tuple():
            return [plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
        case _:
            return value


def run_digest(arguments: argparse.Namespace) -> Exit:
    folder, _, found = found_in(arguments)
    digest = found.replica.digest().hex()
    print_json({"id": folder.swarm.hex(), "digest": digest}) if arguments.json else print(digest)
    return Exit.OK


def run_verify(arguments: argparse.Namespace) -> Exit:
    folder, _, found = found_in(arguments)
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
