"""`shoal status|peers|generate|pause|resume`: looking at the running node, and telling it to rest."""

import argparse
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from .cli_parts import add_command, counted, data_dir_of, print_json, seen, size, span, table
from .complaint import Exit
from .local_client import LocalClient
from .visible import visible

if TYPE_CHECKING:
    from .cli_parts import Commands


PIECE_BYTES = 200  # of generated text at once: less than two seconds of waiting
PROMPT_CHARS = 4096  # more than a model looks back


def add_commands(commands: "Commands", parent: argparse.ArgumentParser) -> None:
    add_command(
        commands,
        "status",
        run_status,
        parent=parent,
        help="show the node, its swarms and how their training goes",
        epilog="  shoal status\n  watch -n 2 shoal status\n  shoal status --json | jq .swarms[0].round",
    )
    add_command(
        commands,
        "peers",
        run_peers,
        parent=parent,
        help="show who is connected, directly or through a relay and why, and who should be and is not, and why not",
        epilog="  shoal peers\n  shoal peers --json",
    )
    generate = add_command(
        commands,
        "generate",
        run_generate,
        parent=parent,
        help="let the newest state of a swarm write text",
        epilog='  shoal generate --prompt "ROMEO:"\n  shoal generate --bytes 1000 --temperature 0.5 --seed 7',
    )
    generate.add_argument("--swarm", metavar="SWARM", help="id, its beginning, or name; needed if there are several")
    generate.add_argument("--prompt", default="\n", metavar="TEXT", help="what the text begins with")
    generate.add_argument("--bytes", type=int, default=400, metavar="N", help="how much to write (default 400)")
    generate.add_argument(
        "--temperature", type=float, default=0.8, help="0: the likeliest; higher: wilder (default 0.8)"
    )
    generate.add_argument("--seed", type=int, default=0, help="another seed, another text")
    for verb, help in (
        ("pause", "stop training, stay connected; remembered over restarts"),
        ("resume", "go on training after `shoal pause`"),
    ):
        command = add_command(
            commands, verb, partial(run_pause, method=verb), parent=parent, help=help, epilog=f"  shoal {verb}"
        )
        command.add_argument(
            "swarm", nargs="?", metavar="SWARM", help="id, its beginning, or name (default: all swarms)"
        )


def run_status(arguments: argparse.Namespace) -> Exit:
    with LocalClient(data_dir_of(arguments)) as node:
        status = node.call("status")
    if arguments.json:
        print_json(status)
        return Exit.OK
    status = seen(status)
    print(f"node      {status['peer_id']}, up for {span(status['uptime_s'])}")
    print(f"listens   {', '.join(status['addresses'])}")
    traffic = f"{size(status['bytes_sent'])} sent, {size(status['bytes_received'])} received"
    known = f"{counted(status['dht_peers'], 'node')} known in the DHT"
    print(f"network   {counted(status['connections'], 'connection')}, {known}, {traffic}")
    print(f"health    {status['rss_mb']} MB of memory, longest stall {span(status['stall_longest_s'])}")
    if not status["swarms"]:
        print("swarms    none: `shoal swarm create` makes one, `shoal swarm join` joins one")
    for swarm in status["swarms"]:
        print()
        print(describe_swarm(swarm))
    return Exit.OK


def describe_swarm(swarm: dict[str, Any]) -> str:
    """A swarm for people."""
    lines = [
        f"swarm     {swarm['name']} ({swarm['id'][:12]}), {role_of(swarm)}",
        f"trains    {swarm['model']} on {swarm['data']} by {swarm['method']}",
    ]
    if swarm["problem"]:
        lines.append(f"problem   {swarm['problem']}")
    if swarm.get("notice"):
        lines.append(f"agreement {swarm['notice']}")
    elif swarm["waits_for"]:
        lines.append(f"waits for {swarm['waits_for']}")
    if "round" in swarm:
        digest = f", state {swarm['state_digest'][:12]}" if swarm["state_digest"] else ""
        given = counted(len(swarm["contributors"]), "contribution")
        lines.append(f"round     {swarm['round']}, by {given}{digest}; {swarm['phase']}")
        figures = ", ".join(f"{name} {figure(value)}" for name, value in swarm["figures"].items())
        lines.append(f"figures   {figures or 'none yet'}")
        others = [member for member in swarm["members"] if member["standing"] != "left"]
        connected = sum(member["is_connected"] for member in others)
        lines.append(f"members   {counted(len(others), 'other')}, {connected} connected")
    return "\n".join(lines)


def figure(value: float) -> str:
    """Counts in full, measures to four digits."""
    return f"{value:,.0f}" if value == round(value) else f"{value:.4g}"


def role_of(swarm: dict[str, Any]) -> str:
    return f"{swarm['role']}, paused" if swarm["is_paused"] else str(swarm["role"])


def run_peers(arguments: argparse.Namespace) -> Exit:
    with LocalClient(data_dir_of(arguments)) as node:
        peers, missing = node.call("peers"), node.call("peers.missing")
    if arguments.json:
        connected = [{**peer, "is_connected": True} for peer in peers]
        print_json([*connected, *({**peer, "is_connected": False} for peer in missing)])
        return Exit.OK
    if not peers:
        print("nobody is connected: `shoal doctor` says why, as far as it can be known")
    else:
        print(table([["peer", "address", "way", "rtt", "sent", "received", "blobs by"], *map(peer_row, seen(peers))]))
    for peer in seen(peers):
        if peer["reason"] and peer["is_relayed"]:
            print(f"\n{peer['peer_id']} relayed: {peer['reason']}")
    for peer in seen(missing):
        print(f"\n{peer['peer_id']} is missing:{'' if peer['failures'] else ' not dialed yet'}")
        for failure in peer["failures"]:
            print(f"  {without_peer(failure['address'])}: {failure['reason']}")
    return Exit.OK


def peer_row(peer: dict[str, Any]) -> list[Any]:
    way = ("relayed" if peer["is_relayed"] else "direct") + (", dialed" if peer["is_outbound"] else ", accepted")
    traffic = [size(peer["bytes_sent"]), size(peer["bytes_received"])]
    rate = f" {size(peer['bulk_bytes_per_s'])}/s" if peer["bulk_bytes_per_s"] else ""
    blobs = peer["bulk"].partition(":")[0] + rate
    return [peer["peer_id"], without_peer(peer["address"]), way, span(peer["rtt_s"]), *traffic, blobs]


def without_peer(address: str) -> str:
    return address.partition("/p2p/")[0]


def run_generate(arguments: argparse.Namespace) -> Exit:
    """Ask for the text piece by piece, each the continuation of all before it, and show each when it is there."""
    text, left = "", arguments.bytes
    with LocalClient(data_dir_of(arguments)) as node:
        while True:
            piece = node.call(
                "generate",
                swarm=arguments.swarm,
                prompt=(arguments.prompt + text)[-PROMPT_CHARS:],
                bytes=min(left, PIECE_BYTES),
                temperature=arguments.temperature,
                seed=arguments.seed + (arguments.bytes - left),
            )
            if not arguments.json:
                sys.stdout.write(visible(piece["text"] if text else arguments.prompt + piece["text"]))
                sys.stdout.flush()
            text += piece["text"]
            left -= PIECE_BYTES
            if left <= 0:
                break
    if arguments.json:
        print_json({"id": piece["id"], "prompt": arguments.prompt, "text": text})
    else:
        sys.stdout.write("\n")
    return Exit.OK


def run_pause(arguments: argparse.Namespace, *, method: str) -> Exit:
    with LocalClient(data_dir_of(arguments)) as node:
        changed = node.call(method, swarm=arguments.swarm)
    if arguments.json:
        print_json(changed)
        return Exit.OK
    for swarm in changed:
        print(f"{swarm['id'][:12]} {'rests; `shoal resume` wakes it' if method == 'pause' else 'goes on'}")
    if not changed:
        print("this node is in no swarm")
    return Exit.OK
