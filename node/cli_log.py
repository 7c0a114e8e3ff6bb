"""`shoal log show|verify|explain|export|replay`: what a swarm's members have agreed on, read from this node's disk."""

import argparse
from typing import TYPE_CHECKING, Any

from .cli_explain import add_explain
from .cli_parts import add_command, add_swarm, counted, data_dir_of, print_json, seen, span, table
from .cli_replay import add_export, add_replay
from .complaint import Complaint, Exit
from .progress import Progress

if TYPE_CHECKING:
    from .cli_parts import Commands

HASH_CHARS = 12  # of a record's or a state's, for people

EPILOG = """\
A swarm's members agree, round by round, on a record: which contributions were taken, who joined and who left. Each
record names the one before it and is signed by a quorum of the members of its time: its certificate.

examples:
  shoal log show --last 5            the newest records
  shoal log verify                   check every record and signature, from the spec on
  shoal log verify --from 3f2a91c0   from a record that you trust
  shoal log explain 3HkYq7Pb         why that member's work counts as much as it does
  shoal log export my.log            all that it takes to make the model anew, in a file
  shoal log replay my.log            make it, on any machine, and check it
"""


def add_commands(commands: "Commands", parent: argparse.ArgumentParser) -> None:
    log = commands.add_parser(
        "log",
        help="show, verify, explain, export and replay what a swarm's members have agreed on",
        description="The log is what the members of a swarm have agreed on, one signed record a round.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[parent],
    )
    verbs = log.add_subparsers(title="commands", metavar="COMMAND", required=True)
    show = add_command(
        verbs,
        "show",
        run_show,
        parent=parent,
        help="show the newest records: round, hash, contributions, state before, changes of members, compaction",
        epilog="  shoal log show\n  shoal log show 3f2a --last 100 --json",
    )
    show.add_argument("--last", type=int, default=20, metavar="N", help="so many records (default 20)")
    verify = add_command(
        verbs,
        "verify",
        run_verify,
        parent=parent,
        help="check every record and certificate, from the spec and this node's disk alone",
        epilog="  shoal log verify\n  shoal log verify 3f2a --from 9bc04d11 --json",
    )
    verify.add_argument("--from", dest="start", metavar="RECORD", help="only what follows this record, which you trust")
    for command in (show, verify):
        add_swarm(command)
    add_explain(verbs, parent)
    add_export(verbs, parent)
    add_replay(verbs, parent)


def run_show(arguments: argparse.Namespace) -> Exit:
    from .logged import opened, record_of, split_of  # here: it takes a while to load

    if arguments.last < 1:
        raise Complaint(f"--last {arguments.last} shows nothing: give 1 or more", Exit.USAGE)
    with opened(data_dir_of(arguments), arguments.swarm) as log:
        records = [record_of(row) for row in log.reader.last(arguments.last)]
        split = log.reader.split()
    told = None if split is None else split_of(split)
    if arguments.json:
        print_json({"id": log.folder.swarm.hex(), "records": records, "split": told})
        return Exit.OK
    if not records:
        print("the log is empty: the members have not agreed on a record yet")
    else:
        print(table([["round", "record", "attempt", "taken", "samples", "state before", "changes"], *rows_of(records)]))
    if told is not None:
        say_split(told)
    return Exit.OK


def rows_of(records: list[dict[str, Any]]) -> list[list[Any]]:
    """A line for each record, and for each gap."""
    rows: list[list[Any]] = []
    for place, record in enumerate(seen(records)):
        missing = record["round"] - records[place - 1]["round"] - 1 if place else 0
        if missing:
            rows.append(["...", f"{missing} are not here", "", "", "", "", ""])
        rows.append(
            [
                record["round"],
                record["hash"][:HASH_CHARS],
                record["attempt"],
                len(record["taken"]),
                record["samples"],
                record["state_before"][:HASH_CHARS] or "-",
                ", ".join([*record["changes"], *store_words(record["store"])]),
            ]
        )
    return rows


def store_words(store: dict[str, Any] | None) -> list[str]:
    """What the members compact their store to, if the record says so."""
    if store is None:
        return []
    operations = counted(store["operations"], "operation")
    return [f"the store was compacted: {operations} of {counted(len(store['frontier']), 'writer')}"]


def run_verify(arguments: argparse.Namespace) -> Exit:
    from .logged import opened, position_at, summary_of, verify_log

    with opened(data_dir_of(arguments), arguments.swarm) as log:
        progress = Progress()
        try:
            found = verify_log(log, position_at(log, arguments.start), progress.tick)
        finally:
            progress.end()
        summary = summary_of(log, found)
    print_json(summary) if arguments.json else say_found(seen(summary), arguments.start)
    return Exit.OK if summary["ok"] else Exit.FAILED


def say_found(found: dict[str, Any], start: str | None) -> None:
    if start is not None:
        print(f"trusted   the record of round {found['first'] - 1}: what came before is not looked at")
    for round in found["trusted"]:
        print(f"trusted   the record of round {round}, which this node was told of: nothing here leads to it")
    for first, last in found["gaps"]:
        print(f"gap       {counted(last - first + 1, 'record')} from round {first} on not here; proved by the next")
    records, changes = counted(found["records"], "record"), counted(found["changes"], "change")
    signatures = counted(found["signatures"], "signature")
    if found["records"]:
        print(f"sound     up to round {found['last']}, record {found['record'][:HASH_CHARS]}")
    print(f"checked   {records}, {changes} of members, {signatures} in {span(found['seconds'])}")
    if found["split"] is not None:
        say_split(found["split"])
    for problem in found["problems"]:
        print(f"problem   {problem}")
    print("verified: every record follows, and a quorum has signed it" if found["ok"] else "this log is NOT sound")


def say_split(split: dict[str, Any]) -> None:
    """Two certified records of one round, and whose word is worth nothing."""
    print(f"SPLIT     round {split['round']} has two certified records")
    for each in split["records"]:
        print(
            f"          {each['hash'][:HASH_CHARS]}, attempt {each['attempt']}, signed by {', '.join(each['signers'])}"
        )
    print(f"          signed both: {', '.join(split['culprits'])}")
