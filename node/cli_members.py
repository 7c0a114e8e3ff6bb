"""`shoal swarm show|remove|vouch|leave`: who is in a swarm, who goes, and who votes."""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from .cli_log import HASH_CHARS, say_split
from .cli_parts import add_command, add_swarm, are, counted, data_dir_of, print_json, seen, span, table
from .cli_view import describe_swarm
from .complaint import Exit
from .local_client import LocalClient

if TYPE_CHECKING:
    from .cli_parts import Commands

PEER_CHARS = 8  # an id's end, which tells it from others; all begin alike
PEER_HELP = "the member's id, or how it begins or ends (`shoal swarm show` lists them)"

PARTINGS = {  # by `Parting`
    "recorded": "the members have a record that says so",
    "unrecorded": "no record says so yet, for no quorum was there: until one does, this node's votes count among all",
    "unseen": "no record had to say so",
}


REMOVE_EXAMPLES = """\
  shoal swarm remove 3Fx9aQ2b            the member whose id ends so; says how many votes are missing
  shoal swarm remove 12D3KooW... tiny    of one of several swarms

Other members say it by the same command on their nodes. Who is removed is told, and is not let in again with its key.
"""

VOUCH_EXAMPLES = """\
  shoal swarm vouch 3Fx9aQ2b --votes 100000

The votes are this node's own: it keeps the rest, at least one. They come back to it when that member leaves or is
removed, and are lost if it is proved to lie. With votes a member's contributions count in full: all members without any
have together a fifth of the weight at most.
"""

LEAVE_EXAMPLES = """\
  shoal swarm leave
  shoal swarm leave 3f2a

Waits some seconds for a record that says so. Where none can be made this node goes all the same, and its votes count
among all until the others meet again.
"""


def add_commands(verbs: "Commands", parent: argparse.ArgumentParser) -> None:
    show = add_command(
        verbs,
        "show",
        run_show,
        parent=parent,
        help="show a swarm: how its training goes, its members, what a quorum takes, its spec",
        epilog="  shoal swarm show\n  shoal swarm show 3f2a\n  shoal swarm show --json | jq .agreement.members",
    )
    remove = add_command(
        verbs,
        "remove",
        run_remove,
        parent=parent,
        help="say that a member should go; it does, for good, once a quorum of votes has said so",
        epilog=REMOVE_EXAMPLES,
    )
    vouch = add_command(
        verbs,
        "vouch",
        run_vouch,
        parent=parent,
        help="give a member without votes some of this node's, where anybody may join",
        epilog=VOUCH_EXAMPLES,
    )
    vouch.add_argument("--votes", type=int, required=True, metavar="N", help="how many of this node's votes")
    leave = add_command(
        verbs,
        "leave",
        run_leave,
        parent=parent,
        help="leave a swarm and delete its states; what this node said there stays, for a return",
        epilog=LEAVE_EXAMPLES,
    )
    for command in (remove, vouch):
        command.add_argument("peer", metavar="PEER", help=PEER_HELP)
    for command in (show, remove, vouch, leave):
        add_swarm(command)


def run_show(arguments: argparse.Namespace) -> Exit:
    with LocalClient(data_dir_of(arguments)) as node:
        swarm = node.call("swarm.show", swarm=arguments.swarm)
    if arguments.json:
        print_json(swarm)
        return Exit.OK
    swarm = seen(swarm)
    spec = swarm.pop("spec")
    settings = spec.pop("settings")
    print(describe_swarm(swarm))
    if swarm["agreement"] is not None:
        say_agreement(swarm["agreement"])
    print("\nspec")
    for name, value in {**spec, **{f"settings.{name}": value for name, value in settings.items()}}.items():
        print(f"  {name:<26} {as_in_toml(value)}")
    return Exit.OK


def as_in_toml(value: object) -> str:
    """As a SPEC.toml would say it."""
    return str(value).lower() if isinstance(value, bool) else json.dumps(value, ensure_ascii=False)


def say_agreement(agreement: dict[str, Any]) -> None:
    """Quorum, newest record, and a line for each member."""
    votes = sum(member["votes"] for member in agreement["members"] if member["is_this_node"])
    print(f"quorum    {quorum_line(agreement['quorum'], votes)}")
    print(f"newest    {newest_line(agreement['newest'])}")
    for removal in agreement["removals"]:
        print(f"removal   of {removal['peer_id']}: {removal_line(removal)}")
    if agreement["barred"]:
        print(f"barred    {', '.join(agreement['barred'])}")
    if agreement["split"] is not None:
        say_split(agreement["split"])
    print()
    heading = ["member", "votes", "weight", "trust", "since round", "at round", ""]
    print(table([heading, *map(member_row, agreement["members"])]))


def quorum_line(quorum: dict[str, Any], own_votes: int) -> str:
    """What is enough, and how much of it is there."""
    half = ""
    if quorum["half_is_enough_with"] is not None and quorum["votes"]:
        half = f", or {quorum['votes'] // 2} with those of {short(quorum['half_is_enough_with'])}"
    rule = quorum["rule"].replace("_", " ")
    needed = (
        f"{quorum['votes_needed']} of {counted(quorum['votes'], 'vote')} {are(quorum['votes_needed'])} needed{half}"
    )
    connected = f"{quorum['votes_connected']} {are(quorum['votes_connected'])} connected"
    own = "this node's among them" if own_votes else "this node has none"
    return f"{rule}: {needed}; {connected}, {own}"


def newest_line(newest: dict[str, Any]) -> str:
    if not newest["round"]:
        return "no record yet"
    decided = ""
    if newest["attempt"] is not None:
        decided = f", decided in attempt {newest['attempt']}, proposed by {short(newest['proposer'])}"
    age = "before this node started" if newest["age_s"] is None else f"{span(newest['age_s'])} ago"
    return f"record {newest['record'][:HASH_CHARS]} of round {newest['round']}{decided}; heard {age}"


def member_row(member: dict[str, Any]) -> list[Any]:
    weight = "-" if member["weight"] is None else f"{100 * member['weight']:.1f} %"
    at = "-" if member["round"] is None else member["round"]
    trust = f"{100 * member['trust']:.0f} %"
    return [member["peer_id"], member["votes"], weight, trust, member["since_round"], at, remarks(member)]


def remarks(member: dict[str, Any]) -> str:
    """What is to be said of a member."""
    said = ["this node" if member["is_this_node"] else "connected" if member["is_connected"] else "not connected"]
    if member["standing"] not in (None, "trainer"):
        said.append(member["standing"])
    if member["silent_s"] is not None:
        said.append(f"not heard for {span(member['silent_s'])}")
    if member["banned_until"] is not None:
        said.append(f"BANNED until round {member['banned_until']} (shoal log explain {short(member['peer_id'])})")
    if member["suspended"] is not None:
        said.append(suspended_words(member["suspended"]))
    if not member["is_connected"] and member["taken_round"] is not None:
        said.append(f"last contributed to the record of round {member['taken_round']}")
    if member["vouched_by"] is not None:
        said.append(f"votes from {short(member['vouched_by'])}")
    return ", ".join(said)


def suspended_words(suspended: dict[str, Any]) -> str:
    if suspended["round"] is None:
        return "SUSPENDED as silent, by a record older than those at hand"
    return f"SUSPENDED as silent since round {suspended['round']} (record {suspended['record'][:HASH_CHARS]})"


def removal_line(removal: dict[str, Any]) -> str:
    said = f"{removal['votes']} of {counted(removal['votes_needed'], 'vote')} needed"
    by = f", by {', '.join(map(short, removal['voters']))}" if removal["voters"] else ""
    return f"{said}{by}{'; the next record says it' if removal['is_wanted'] else ''}"


def run_remove(arguments: argparse.Namespace) -> Exit:
    with LocalClient(data_dir_of(arguments)) as node:
        asked = node.call("swarm.remove", swarm=arguments.swarm, peer=arguments.peer)
    if arguments.json:
        print_json(asked)
        return Exit.OK
    asked = seen(asked)
    peer, removal = asked["peer_id"], asked["removal"]
    if removal is None:
        print(f"{peer} is removed")
    elif removal["is_wanted"]:
        print(f"{peer} goes: {removal_line(removal)}")
    else:
        print(f"{peer} stays for now: {removal_line(removal)}")
        print(f"it goes once enough other members say so, too: shoal swarm remove {short(peer)}")
    return Exit.OK


def run_vouch(arguments: argparse.Namespace) -> Exit:
    with LocalClient(data_dir_of(arguments)) as node:
        given = node.call("swarm.vouch", swarm=arguments.swarm, peer=arguments.peer, votes=arguments.votes)
    if arguments.json:
        print_json(given)
        return Exit.OK
    given = seen(given)
    votes = counted(given["votes"], "vote")
    print(f"{given['peer_id']} has {votes} of this node's with the next record; this node keeps {given['votes_kept']}")
    return Exit.OK


def run_leave(arguments: argparse.Namespace) -> Exit:
    with LocalClient(data_dir_of(arguments)) as node:
        print("leaving: asking the members for a record that says so, for some seconds at most", file=sys.stderr)
        left = node.call("swarm.leave", swarm=arguments.swarm)
    if arguments.json:
        print_json(left)
        return Exit.OK
    left = seen(left)
    print(f"left swarm {left['name']} ({left['id'][:12]}): {PARTINGS[left['parting']]}")
    return Exit.OK


def short(peer: str) -> str:
    return peer[-PEER_CHARS:]
