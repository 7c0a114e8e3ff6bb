"""`shoal dht get|put|providers`: the DHT, for people who want to see what is in it."""

import argparse
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

from .cli_parts import add_command, counted, data_dir_of, print_json, seen
from .complaint import Complaint, Exit
from .local_client import LocalClient

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from shoal.dht.service import DhtService
    from shoal.transport.port import Transport

    from .cli_parts import Commands
    from .guest import Ask

VIA_EXAMPLE = "/ip4/192.0.2.1/tcp/4001/p2p/12D3KooW..."

EPILOG = """\
The DHT is how nodes find one another without a server: each holds a part of it. What stands in it is signed by who
wrote it, and expires after a day and a half unless its writer's node renews it.

keys
  /shoal/note/<name>/<peer id>   a text that a node keeps under a name: `shoal dht put`
  /shoal/listing/<peer id>       the public swarms that a node lists

examples:
  shoal dht put hello "it works"
  shoal dht get /shoal/note/hello/12D3KooW...
  shoal dht providers 3f2a...        who is in a swarm
"""


def add_commands(commands: "Commands", parent: argparse.ArgumentParser) -> None:
    dht = commands.add_parser(
        "dht",
        help="look into the DHT by which nodes find one another",
        description="Look into the DHT by which nodes find one another.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[parent],
    )
    verbs = dht.add_subparsers(title="commands", metavar="COMMAND", required=True)
    get = add_command(
        verbs,
        "get",
        run_get,
        parent=parent,
        help="show the newest record under a key",
        epilog="  shoal dht get /shoal/listing/12D3KooW...",
    )
    get.add_argument("key", metavar="KEY", help="as /shoal/note/<name>/<peer id>")
    put = add_command(
        verbs,
        "put",
        run_put,
        parent=parent,
        help="keep a text under a name of the running node's own, which renews it",
        epilog='  shoal dht put hello "it works"',
    )
    put.add_argument("name", metavar="NAME", help="1 to 48 of a-z 0-9 . _ -")
    put.add_argument("text", metavar="TEXT")
    providers = add_command(
        verbs,
        "providers",
        run_providers,
        parent=parent,
        help="show who says that it holds a blob, or is in a swarm",
        epilog="  shoal dht providers 3f2a...",
    )
    providers.add_argument("what", metavar="BLOB|SWARM", help="a blob's CID or a swarm's id, in full")
    for command in (get, providers):
        add_via(command)


def add_via(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--via", metavar="ADDRESS", help="ask through this node first, as /ip4/.../tcp/.../p2p/<peer id>"
    )


def ask_dht(arguments: argparse.Namespace, method: str, as_guest: "Ask", **params: Any) -> Any:
    """What the node of this data directory finds; or, if none runs, what the node at --via lets one find."""
    if arguments.via is not None and not (arguments.via.startswith("/") and "/p2p/" in arguments.via):
        raise Complaint(f"--via: expected an address like {VIA_EXAMPLE}, got {arguments.via}", Exit.USAGE)
    if sys.stderr.isatty():
        print("asking...", end="\r", file=sys.stderr, flush=True)
    try:
        client = LocalClient(data_dir_of(arguments))
    except Complaint as complaint:
        if complaint.code is not Exit.NO_NODE:
            raise
        if arguments.via is None:
            raise Complaint(f"{complaint}; or ask somebody else's: --via ADDRESS", Exit.NO_NODE) from complaint
        from .guest import ask_as_guest  # here: it loads libp2p

        return ask_as_guest(arguments.via, as_guest)
    with client:
        return client.call(method, via=arguments.via, **params)


def run_get(arguments: argparse.Namespace) -> Exit:
    def as_guest(_: "Transport", dht: "DhtService") -> "Awaitable[object]":
        from .finding import find_record

        return find_record(dht, arguments.key)

    record = ask_dht(arguments, "dht.get", as_guest, key=arguments.key)
    if arguments.json:
        print_json(record)
        return Exit.OK
    record = seen(record)
    print(f"writer    {record['writer']}")
    print(f"written   {at(record['issued_at'])}, expires {at(record['expires_at'])}, number {record['sequence']}")
    if isinstance(record["shown"], str):
        print(f"text      {record['shown']}")
    elif record["shown"] is None:
        print(f"bytes     {record['body']}")
    else:
        for swarm in record["shown"]:
            print(f"lists     {swarm['name']} ({swarm['id'][:12]})")
    return Exit.OK


def at(unix_s: float) -> str:
    """A moment, by this machine's clock."""
    try:
        return datetime.fromtimestamp(unix_s).astimezone().isoformat(" ", "minutes")
    except (ValueError, OverflowError, OSError):
        return "never"


def run_put(arguments: argparse.Namespace) -> Exit:
    with LocalClient(data_dir_of(arguments)) as node:
        put = node.call("dht.put", name=arguments.name, text=arguments.text)
    if arguments.json:
        print_json(put)
    else:
        others = counted(put["holders"], "other node")
        print(f"{put['key']}\nheld here and by {others}; this node renews it while it runs")
    return Exit.OK


def run_providers(arguments: argparse.Namespace) -> Exit:
    def as_guest(_: "Transport", dht: "DhtService") -> "Awaitable[object]":
        from .finding import find_providers

        return find_providers(dht, arguments.what)

    found = ask_dht(arguments, "dht.providers", as_guest, what=arguments.what)
    if arguments.json:
        print_json(found)
        return Exit.OK
    if not found["providers"]:
        print("nobody says so")
    for provider in seen(found["providers"]):
        print(provider["peer_id"])
        for address in provider["addresses"]:
            print(f"  {address}")
    return Exit.OK
