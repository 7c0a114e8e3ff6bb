"""What this machine says of its network cards, in namespaces whose cards are known."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from shoal.node.namespaces import Namespace, obstacle, open_namespace

ROOT: Final = Path(__file__).resolve().parents[2]
ASK: Final = """
import json
from shoal.transport.cards_service import Cards
cards = Cards()
print(json.dumps({"ip4": cards.ips("ip4"), "ip6": cards.ips("ip6"), "families": sorted(cards.families())}))
"""
CARD: Final = ("link set lo up", "link add card type veth peer name far", "link set card up", "link set far up")
IP4: Final = ("addr add 5.0.0.9/24 dev card", "route add default via 5.0.0.1")
PRIVATE_IP6: Final = ("addr add fd00::9/64 dev card nodad", "route add default via fd00::1")


async def test_a_machine_that_is_nowhere_reaches_nobody() -> None:
    assert await asked() == {"ip4": ["127.0.0.1"], "ip6": ["::1"], "families": []}


async def test_only_a_public_address_of_ipv6_leads_out() -> None:
    said = await asked(*IP4, *PRIVATE_IP6)
    assert said == {"ip4": ["5.0.0.9", "127.0.0.1"], "ip6": ["fd00::9", "::1"], "families": ["ip4"]}


async def test_a_public_address_without_a_way_out_does_not_lead_out() -> None:
    said = await asked("addr add 2a00::9/64 dev card nodad")
    assert (said["ip6"], said["families"]) == (["2a00::9", "::1"], [])


async def test_of_many_public_addresses_two_are_named_the_one_that_is_used_first() -> None:
    many = [f"addr add 2a00::{number}/64 dev card nodad" for number in (1, 2, 3, 4)]
    said = await asked(*many, "route add default via 2a00::f src 2a00::3", *PRIVATE_IP6[:1])
    assert said["families"] == ["ip6"]
    assert said["ip6"][0] == "2a00::3"
    assert sum(ip.startswith("2a00::") for ip in said["ip6"]) == 2
    assert said["ip6"][-1] == "::1"
    assert "fd00::9" in said["ip6"]


async def asked(*commands: str) -> dict[str, Any]:
    """What a process says in a namespace whose card these commands of `ip` have set up."""
    if reason := await obstacle("ip link add card type veth peer name far && ip addr add 2a00::9/64 dev card nodad"):
        pytest.skip(f"NOT TESTED: {reason}")
    async with open_namespace() as place:
        await place.ip([*CARD, *commands])
        return answer(place)


def answer(place: Namespace) -> dict[str, Any]:
    command = [*place.prefix, sys.executable, "-c", ASK]
    said: dict[str, Any] = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    return said
