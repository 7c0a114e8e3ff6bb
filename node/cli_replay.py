"""`shoal log export|replay`: all that it takes to make a swarm's model anew, in a file; and making it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cli_node import add_member_options, paths
from .cli_parts import add_command, add_swarm, counted, data_dir_of, print_json, seen, size, span
from .complaint import Complaint, Exit
from .progress import Progress

if TYPE_CHECKING:
    from .cli_parts import Commands
    from .exported import Exported, Replayed

HASH_CHARS = 12  # of a record's or a state's, for people


def add_export(verbs: "Commands", parent: argparse.ArgumentParser) -> None:
    export = add_command(
        verbs,
        "export",
        run_export,
        parent=parent,
        help="write spec, proof and what every round took to a file, from this node's disk alone",
        epilog="  shoal log export my.log\n  shoal log export 3f2a my.log --json\n\n"
        "`shoal log replay` makes the model anew from it, on any machine. For methods that send little, as zeroth.",
    )
    add_swarm(export)
    export.add_argument("file", metavar="FILE", help="to be written; there must be none of this name")


def add_replay(verbs: "Commands", parent: argparse.ArgumentParser) -> None:
    replay = add_command(
        verbs,
        "replay",
        run_replay,
        parent=parent,
        help="make a model anew from an exported log, offline, and check every signature and the digest",
        epilog="  shoal log replay my.log\n  shoal log replay my.log --save model --json",
    )
    replay.add_argument("file", metavar="FILE", help="as `shoal log export` writes it")
    add_member_options(replay)
    replay.add_argument("--save", metavar="FILE", help="write the model there, as members give it to each other")
    replay.add_argument(
        "--trust", metavar="RECORD", help="for a file whose proof begins with this record: you trust it"
    )


def run_export(arguments: argparse.Namespace) -> Exit:
    from .exported import export  # here: it takes a while to load
    from .logged import opened

    path = Path(arguments.file).expanduser()
    progress = Progress()
    with opened(data_dir_of(arguments), arguments.swarm) as log:
        try:
            exported = export(log, path, progress.tick)
        finally:
            progress.end()
    found = exported_as_json(exported, path)
    print_json(found) if arguments.json else say_exported(seen(found))
    return Exit.OK


def run_replay(arguments: argparse.Namespace) -> Exit:
    from shoal.training.methods import MemberOptions, build

    from .exported import replay, save

    target = None if arguments.save is None else Path(arguments.save).expanduser()
    if target is not None and target.exists():
        raise Complaint(f"{target} is there already: name another file with --save", Exit.USAGE)
    progress, own = Progress(), {name: Path(path) for name, path in paths(arguments).items()}
    options = MemberOptions(data_path=own.get("data"), entry_path=own.get("entry"), model_path=own.get("model_dir"))
    try:
        path = Path(arguments.file).expanduser()
        replayed = replay(path, arguments.trust, lambda spec: build(spec, options), progress.tick)
    finally:
        progress.end()
    if target is not None and replayed.is_right:
        save(replayed, target)
    found = replayed_as_json(replayed, target)
    print_json(found) if arguments.json else say_replayed(seen(found))
    return Exit.OK if replayed.is_right else Exit.FAILED


def exported_as_json(exported: "Exported", path: Path) -> dict[str, Any]:
    return {
        "id": exported.swarm.hex(),
        "file": str(path),
        "bytes": exported.bytes,
        "rounds": exported.rounds,
        "record": exported.record.hex(),
        "trusted": None if exported.trusted is None else exported.trusted.hex(),
    }


def say_exported(found: dict[str, Any]) -> None:
    print(f"wrote {found['file']}: {counted(found['rounds'], 'round')}, {size(found['bytes'])}")
    if found["trusted"] is not None:
        trusted = found["trusted"][:16]
        print(f"Its proof begins with record {trusted}, which this node's invite named. Who does not know that record")
        print("needs a file of a member that has been there from the start.")
    print(f"Anybody makes the model from it with `shoal log replay {found['file']}`.")


def replayed_as_json(replayed: "Replayed", target: Path | None) -> dict[str, Any]:
    opened, certified = replayed.opened, replayed.certified
    is_from_spec = opened.contents.trusted == opened.swarm
    return {
        "id": opened.swarm.hex(),
        "name": opened.spec.name,
        "creator": opened.spec.creator,
        "method": opened.spec.method,
        "model": opened.spec.model,
        "ok": replayed.is_right,
        "trusted": None if is_from_spec else opened.contents.trusted.hex(),
        "record": certified.position.record.hex(),
        "records": certified.leaps,
        "rounds": opened.contents.rounds,
        "contributions": replayed.contributions,
        "members": replayed.members,
        "bytes": replayed.bytes,
        "seconds": round(replayed.seconds, 3),
        "digest": replayed.digest.hex(),
        "certified": certified.digest.hex(),
        "saved": str(target) if target is not None and replayed.is_right else None,
    }


def say_replayed(found: dict[str, Any]) -> None:
    contributions, members = counted(found["contributions"], "contribution"), counted(found["members"], "member")
    print(f"swarm     {found['name']} ({found['id'][:HASH_CHARS]}): {found['method']}, {found['model']}")
    print(f"founder   {found['creator']}")
    if found["trusted"] is not None:
        print(f"trusted   record {found['trusted'][:HASH_CHARS]}: what came before is not proved")
    print(f"proved    {counted(found['records'], 'record')}, up to {found['record'][:HASH_CHARS]}")
    print(
        f"replayed  {counted(found['rounds'], 'round')}, {contributions} of {members}, {size(found['bytes'])} in "
        f"{span(found['seconds'])}"
    )
    print(f"state     {found['digest']}")
    if found["ok"]:
        print(f"the same that a quorum has certified after round {found['rounds']}")
    else:
        print(f"NOT the state {found['certified']} that a quorum has certified: what the rounds took was changed")
    if found["saved"] is not None:
        print(f"wrote {found['saved']}")
