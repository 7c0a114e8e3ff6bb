"""`shoal log explain`: what the log says of one member, for people."""

import argparse
from itertools import groupby
from typing import TYPE_CHECKING, Any

from .cli_parts import add_command, add_swarm, counted, data_dir_of, print_json, seen, table
from .complaint import Complaint, Exit
from .progress import Progress

if TYPE_CHECKING:
    from .cli_parts import Commands

EPILOG = """\
Every member computes the same from the same records: by how much each member's work counts, and why. Nothing is asked
of anybody: this reads the log on this node's disk.

  trust       by how much the member's samples count. Who is new has 12 %; it grows with each contribution that nothing
              is held against; each free ride halves it, and each attack
              takes it to an eighth, until a few good ones have followed
  similarity  the cosine of the angle between its contribution and the median of all voters': at least so much is asked
  length      of its contribution, where the voters' median is 1
  alike       the cosine to the contribution of another that is nearest; a copy has 1
  repeated    how much of it was contributed before

examples:
  shoal log explain 3HkYq7Pb
  shoal log explain 3HkYq7Pb 3f2a --json     of the swarm whose id begins so
"""


def add_explain(verbs: "Commands", parent: argparse.ArgumentParser) -> None:
    explain = add_command(
        verbs,
        "explain",
        run_explain,
        parent=parent,
        help="say why a member's work counts as much as it does: what it made, what was found, what followed",
        epilog=EPILOG,
    )
    explain.add_argument("peer", metavar="PEER", help="the member's peer id, or enough of its end")
    add_swarm(explain)


def run_explain(arguments: argparse.Namespace) -> Exit:
    from .explaining import explain, members_named
    from .logged import opened

    with opened(data_dir_of(arguments), arguments.swarm) as log:
        fitting = sorted(peer for peer in members_named(log) if peer.endswith(arguments.peer))
        if len(fitting) > 1:
            raise Complaint(f"'{arguments.peer}' fits several members: {', '.join(fitting)}", Exit.USAGE)
        if not fitting and len(arguments.peer) < 40:
            raise Complaint(f"no member's id ends in '{arguments.peer}'; of one who left, give the whole", Exit.USAGE)
        progress = Progress()
        try:
            story = explain(log, fitting[0] if fitting else arguments.peer, progress.tick)
        finally:
            progress.end()
    print_json(story) if arguments.json else say_story(seen(story))
    return Exit.OK


def say_story(story: dict[str, Any]) -> None:
    votes = "no member now" if story["votes"] is None else counted(story["votes"], "vote")
    print(f"member    {story['peer_id']}, {votes}")
    print(f"trusted   {percent(story['trust'])}, after round {story['newest_round']}")
    if story["banned_until"] is not None:
        print(f"BANNED    until round {story['banned_until']}: its work counts nothing")
    if story["bans"]:
        print(f"bans      {story['bans']} in all")
    if story["gaps"]:
        print(f"gaps      {counted(story['gaps'], 'stretch')} of the log not here: what it did then is not told")
    print()
    if story["rounds"]:
        heading = [
            "rounds",
            "samples",
            "weight",
            "similarity",
            "length",
            "alike",
            "repeated",
            "trust",
            "held against it",
        ]
        print(table([heading, *rows_of(story["rounds"])]))
    for event in story["events"]:
        print(f"round {event['round']:<6} {event['text']}")


def rows_of(rounds: list[dict[str, Any]]) -> list[list[Any]]:
    """A line for each contribution that something is held against; one for all in a row that nothing is."""
    rows: list[list[Any]] = []
    for charge, some in groupby(rounds, key=lambda each: each["held_against"]):
        those = list(some)
        rows += [row_of([each]) for each in those] if charge is not None else [row_of(those)]
    return rows


def row_of(those: list[dict[str, Any]]) -> list[Any]:
    first, last = those[0], those[-1]
    rounds = first["round"] if first is last else f"{first['round']} - {last['round']}"
    shown = [each["evidence"] for each in those if each["evidence"] is not None]
    least = "" if not shown or len(those) > 1 else f" (of {shown[0]['least_similarity']:.2f})"
    return [
        rounds,
        sum(each["samples"] for each in those),
        percent(last["weight"]),
        spread([each["similarity"] for each in shown]) + least,
        spread([each["length"] for each in shown]),
        spread([each["nearest"] for each in shown]),
        spread([each["repeated"] for each in shown]),
        percent(last["trust"]),
        last["held_against"] or "nothing",
    ]


def spread(values: list[float]) -> str:
    """The least and the largest."""
    if not values:
        return "-"
    least, most = f"{min(values):.2f}", f"{max(values):.2f}"
    return least if least == most else f"{least} to {most}"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"
