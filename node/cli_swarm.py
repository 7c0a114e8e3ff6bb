"""`shoal swarm join|invite|list`; founding is in cli_founding.py, the commands about members in cli_members.py.

create and join use the node that runs on the data directory; where none runs they become it, in the foreground.
"""

import argparse
import sys
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, TextIO

from . import cli_founding, cli_members
from .cli_dht import add_via, ask_dht
from .cli_node import add_member_options, add_node_options, paths, say_what_next, with_node
from .cli_parts import add_command, add_swarm, counted, data_dir_of, print_json, seen, size, span, table
from .cli_view import role_of
from .complaint import Complaint, Exit
from .invite import parse_invite
from .local_client import LocalClient

if TYPE_CHECKING:
    from shoal.dht.service import DhtService
    from shoal.transport.port import Transport

    from .cli_parts import Commands

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
        help="create, join, show and leave swarms; say who is in",
        description="A swarm is a group of nodes that train one model by one spec.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[parent],
    )
    verbs = swarm.add_subparsers(title="commands", metavar="COMMAND", required=True)
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
    add_member_options(join)
    join.add_argument("--role", choices=("train", "storage"), help="storage: keep and serve, without torch")
    add_node_options(join)
    cli_founding.add_commands(verbs, parent)
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


def describe_preview(preview: dict[str, Any]) -> str:
    """What joining means, for a person."""
    parameters = preview["parameters"]
    model = preview["model"] + (f", {parameters:,} parameters" if parameters else "")
    memory = f"about {size(preview['memory_bytes'])} ({size(preview['memory_free_bytes'])} are free)"
    parent = preview["parent"].partition("@")
    lines = [
        f"swarm     {preview['name']} ({preview['swarm'][:12]}), by {preview['creator']}",
        *([f"goes on   from swarm {parent[0][:12]}, record {parent[2][:12]}"] if preview["parent"] else []),
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
    if not answer["lets_in"]:
        print(
            "this node has no vote in the swarm, so whoever uses this invite can store for it and not train: "
            "to let somebody in who trains, ask a member with a vote (`shoal swarm show` lists them) for an invite",
            file=sys.stderr,
        )
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
