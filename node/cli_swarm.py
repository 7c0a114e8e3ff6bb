"""`shoal swarm create|join|invite|list`; the commands about members are in cli_members.py.

create and join use the node that runs on the data directory; where none runs they become it, in the foreground.
"""

import argparse
import sys
import tomllib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from . import cli_members
from .cli_dht import add_via, ask_dht
from .cli_node import add_node_options, run_foreground
from .cli_parts import add_command, add_swarm, counted, data_dir_of, print_json, seen, size, span, table
from .cli_view import role_of
from .complaint import Complaint, Exit
from .config import KEYS
from .invite import parse_invite
from .local_client import LocalClient

if TYPE_CHECKING:
    from shoal.dht.service import DhtService
    from shoal.transport.port import Transport

    from .cli_parts import Commands

SPEC_NAME = "spec.toml"
SPEC_BYTES_MAX = 1024 * 1024

DEFAULT_SPEC = """\
# What a swarm trains, and by which rules. Fixed for good once the swarm is created; everybody who joins sees it first.
# `shoal swarm create THIS_FILE` founds another swarm with it.
name = "shakespeare"
method = "diloco"
model = "gpt-0.8m"      # gpt-0.2m, gpt-0.8m, gpt-3m, gpt-11m, gpt-25m, gpt-124m: parameters
data = "shakespeare"    # or "file:<BLAKE3 of a text>", which every member then names with --data
round_s = 60.0          # time to train in before a round is closed
grace_s = 30.0          # after it, for payloads on their way
members_start = 1       # round 1 waits until so many are there
rounds_max = 0          # 0: no end
admission = "invite"    # who has a member's invite joins, with one vote; "list": who is in allowed = ["12D3KooW..."];
                        # "open": anybody, without a vote until a member vouches: take quorum = "two_thirds" then
quorum = "majority"     # more than half of the votes ends a round: nobody may lie; "two_thirds": fewer than a third may
is_public = false       # true: listed where anybody finds it, `shoal swarm list --public`: take admission = "open" then

[settings]              # DiLoCo's own
steps = 50              # inner steps a round
steps_min = 10          # for members slower than the others
steps_max = 200         # for faster ones
codec = "float32"       # or bfloat16, int8: half and a quarter of the bytes
"""

LET_IN = {  # by `AdmissionRule`
    "invite": "by this invite, with one vote",
    "list": "you are on its list, with one vote",
    "open": "anybody; no vote until a member vouches for you",
}
QUORUMS = {  # by `Quorum`
    "majority": "more than half of the votes ends a round: members may crash, and are trusted not to lie",
    "two_thirds": "more than two thirds of the votes end a round: liars with less than a third do no harm",
}

EPILOG = """\
in two terminals, or on two machines:
  shoal swarm create                               found one; it prints an invite
  shoal --data-dir /tmp/two swarm join shoal:...   join it; --data-dir only where both are on one machine
"""


def add_commands(commands: "Commands", parent: argparse.ArgumentParser) -> None:
    swarm = commands.add_parser(
        "swarm",
        help="create, join, show and leave swarms, and say who is in",
        description="A swarm is a group of nodes that train one model by one spec.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[parent],
    )
    verbs = swarm.add_subparsers(title="commands", metavar="COMMAND", required=True)
    create = add_command(
        verbs,
        "create",
        run_create,
        parent=parent,
        help="found a swarm and print an invite to it",
        epilog="""\
  shoal swarm create                        writes spec.toml with the defaults and uses it
  shoal swarm create my-spec.toml           with your own
  shoal swarm create --entry my_model.py    a model of your own; nothing of the file is sent
""",
    )
    create.add_argument(
        "spec", nargs="?", metavar="SPEC.toml", help="what to train (default: spec.toml in the data directory)"
    )
    join = add_command(
        verbs,
        "join",
        run_join,
        parent=parent,
        help="join a swarm by an invite, after showing what it will cost",
        epilog="""\
  shoal swarm join shoal:...                shows method, model, data, disk, memory and time, and asks
  shoal swarm join shoal:... --yes          does not ask
  shoal swarm join shoal:... --data my.txt  trains on a text of your own instead of your part of the swarm's
""",
    )
    join.add_argument("invite", metavar="INVITE", help="what `shoal swarm invite` printed at a member's: shoal:...")
    join.add_argument("--yes", action="store_true", help="do not ask")
    for command in (create, join):
        command.add_argument("--data", metavar="PATH", help="a text of your own to train on; it stays here")
        command.add_argument(
            "--entry", metavar="FILE.py", help="your own copy of the file that the spec names by its hash"
        )
        command.add_argument("--role", choices=("train", "storage"), help="storage: keep and serve, without torch")
        add_node_options(command)
    add_invite(verbs, parent)
    add_list(verbs, parent)
    cli_members.add_commands(verbs, parent)


def add_invite(verbs: "Commands", parent: argparse.ArgumentParser) -> None:
    invite = add_command(
        verbs,
        "invite",
        run_invite,
        parent=parent,
        help="print a fresh invite: send it to whoever shall join",
        epilog="  shoal swarm invite\n  shoal swarm invite 3f2a",
    )
    add_swarm(invite)


def add_list(verbs: "Commands", parent: argparse.ArgumentParser) -> None:
    listing = add_command(
        verbs,
        "list",
        run_list,
        parent=parent,
        help="list the swarms this node is in, or those that anybody may join",
        epilog="""\
  shoal swarm list                             those this node is in
  shoal swarm list --public                    those that chose to be listed, as far as this node's peers know
  shoal swarm list --public --via /ip4/...     the same, by a node of whom you know the address; none need run here
""",
    )
    listing.add_argument("--public", action="store_true", help="swarms that chose to be listed, on other nodes")
    add_via(listing)


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


def paths(arguments: argparse.Namespace) -> dict[str, str]:
    """The member's own files, absolute: the node may run in another directory."""
    given = {"data": arguments.data, "entry": arguments.entry}
    return {name: str(Path(path).expanduser().absolute()) for name, path in given.items() if path is not None}


def run_create(arguments: argparse.Namespace) -> Exit:
    spec = read_spec(arguments)

    def command(node: LocalClient, is_own: bool) -> Exit:
        swarm = node.call("swarm.create", spec=spec, role=arguments.role, **paths(arguments))
        if arguments.json:
            print_json(swarm)
        else:
            swarm = seen(swarm)
            print(f"created swarm {swarm['name']} ({swarm['id'][:12]}). Others join it with\n")
            print(f"shoal swarm join {swarm['invite']}\n")
            say_what_next(is_own)
        sys.stdout.flush()
        return Exit.OK

    return with_node(arguments, command)


def read_spec(arguments: argparse.Namespace) -> dict[str, Any]:
    """The spec file as a table. Raises Complaint."""
    if arguments.spec is not None:
        path = Path(arguments.spec).expanduser()
    else:
        path = data_dir_of(arguments) / SPEC_NAME
        write_default_spec(path)
    try:
        with path.open("rb") as file:
            text = file.read(SPEC_BYTES_MAX + 1)
        if len(text) > SPEC_BYTES_MAX:
            raise Complaint(f"{path} is larger than {SPEC_BYTES_MAX} bytes: that is no spec", Exit.SPEC)
        return tomllib.loads(text.decode())
    except OSError as error:
        raise Complaint(f"cannot read {path}: {error.strerror}", Exit.SPEC) from error
    except (ValueError, RecursionError) as error:  # among them TOMLDecodeError and UnicodeDecodeError
        raise Complaint(f"{path} is not TOML: {error}", Exit.SPEC) from error


def write_default_spec(path: Path) -> None:
    """Put the default spec there for its owner to read and change; what is there already is theirs and stays."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with path.open("x", encoding="utf-8") as file:
            file.write(DEFAULT_SPEC)
    except FileExistsError:
        print(f"using {path}", file=sys.stderr)
    except OSError as error:
        raise Complaint(f"cannot write {path}: {error.strerror}", Exit.CONFIG) from error
    else:
        print(f"wrote {path}", file=sys.stderr)


def run_join(arguments: argparse.Namespace) -> Exit:
    parse_invite(arguments.invite)  # a mistyped invite is told before a node is started for it

    def command(node: LocalClient, is_own: bool) -> Exit:
        preview = node.call("swarm.preview", invite=arguments.invite)
        people = sys.stderr if arguments.json else sys.stdout  # input() would always ask among the log's lines
        if not (arguments.json and arguments.yes):
            print(describe_preview(seen(preview)), file=people)
        if preview["obstacle"]:
            raise Complaint(preview["obstacle"], Exit.INVITE)
        if not arguments.yes:
            confirm(f"Join {seen(preview['name'])}?", people)
        swarm = node.call("swarm.join", invite=arguments.invite, role=arguments.role, **paths(arguments))
        if arguments.json:
            print_json(swarm)
        else:
            print(f"joined swarm {seen(swarm['name'])} ({swarm['id'][:12]})")
            say_what_next(is_own)
        sys.stdout.flush()
        return Exit.OK

    return with_node(arguments, command)


def say_what_next(is_own: bool) -> None:
    if is_own:
        print(
            "this terminal is the node now: Ctrl-C stops it, `shoal node` starts it again, `shoal status` looks at it"
        )
    else:
        print("`shoal status` shows how it goes")


def describe_preview(preview: dict[str, Any]) -> str:
    """What joining means, for a person."""
    parameters = preview["parameters"]
    model = preview["model"] + (f", {parameters:,} parameters" if parameters else "")
    memory = f"about {size(preview['memory_bytes'])} ({size(preview['memory_free_bytes'])} are free)"
    lines = [
        f"swarm     {preview['name']} ({preview['swarm'][:12]}), by {preview['creator']}",
        f"method    {preview['method']}",
        f"model     {model}",
        f"data      {preview['data']}",
        f"let in    {preview['obstacle'] or LET_IN[preview['admission']]}",
        f"quorum    {QUORUMS[preview['quorum']]}",
        f"disk      up to {size(preview['disk_bytes'])}",
        f"memory    {memory}",
        f"network   {size(preview['payload_bytes'])} sent per round, as much received from each other member",
        f"time      about {span(preview['round_s'])} of training per round",
    ]
    if not preview["is_torch_here"]:
        lines.append("note      PyTorch is not installed here: pip install torch, or join with --role storage")
    return "\n".join(lines)


def confirm(question: str, people: TextIO) -> None:
    """Raises Complaint unless the person says yes."""
    print(f"{question} [y/N] ", end="", flush=True, file=people)
    answer = sys.stdin.readline()
    if not answer:
        raise Complaint("nobody is there to ask: add --yes to join without a question", Exit.DECLINED)
    if answer.strip().lower() not in ("y", "yes"):
        raise Complaint("not joined", Exit.DECLINED)


def run_invite(arguments: argparse.Namespace) -> Exit:
    with LocalClient(data_dir_of(arguments)) as node:
        answer = node.call("swarm.invite", swarm=arguments.swarm)
    print_json(answer) if arguments.json else print(answer["invite"])
    return Exit.OK


def run_list(arguments: argparse.Namespace) -> Exit:
    if arguments.public:
        return run_list_public(arguments)
    if arguments.via is not None:
        raise Complaint("--via is for --public", Exit.USAGE)
    with LocalClient(data_dir_of(arguments)) as node:
        swarms = node.call("swarm.list")
    if arguments.json:
        print_json(swarms)
        return Exit.OK
    if not swarms:
        print(
            "this node is in no swarm: `shoal swarm create` makes one, `shoal swarm join` joins one, "
            "`shoal swarm list --public` finds some"
        )
        return Exit.OK
    print(table([["id", "name", "model", "data", "role", "round", "problem"], *map(list_row, seen(swarms))]))
    return Exit.OK


def run_list_public(arguments: argparse.Namespace) -> Exit:
    def as_guest(transport: "Transport", dht: "DhtService") -> Awaitable[object]:
        from .finding import find_public_swarms

        return find_public_swarms(transport, dht)

    swarms = ask_dht(arguments, "swarm.directory", as_guest)
    if arguments.json:
        print_json(swarms)
        return Exit.OK
    if not swarms:
        print("no swarm is listed there: a member lists one whose spec says is_public = true")
        return Exit.OK
    for swarm in seen(swarms):
        print(f"{swarm['name']} ({swarm['id'][:12]}), listed by {counted(swarm['listed_by'], 'member')}")
        print(f"  trains  {swarm['model']} on {swarm['data']} by {swarm['method']}")
        if swarm["admission"] == "invite":
            print("  join    by an invite of a member's: no other lets you in")
        else:
            print(f"  join    shoal swarm join {swarm['invite']}")
    return Exit.OK


def list_row(swarm: dict[str, Any]) -> list[Any]:
    trained = [swarm["model"], swarm["data"], role_of(swarm), swarm.get("round", "-")]
    return [swarm["id"][:12], swarm["name"], *trained, swarm["problem"] or ""]
