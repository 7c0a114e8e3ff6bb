"""A routing table survives a restart: whatever the disk and the network do."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import trio
from trio.testing import MockClock

from shoal.dht.contacts import Contact
from shoal.dht.routing import RoutingTable, TableSettings
from shoal.dht.saved_service import AGAIN_S_MAX, AGAIN_S_MIN, come_back, load_contacts, save_table, survive
from tests.dht.peers import contact, identity

CONTACTS = [contact(number) for number in range(1, 9)]


def table(*contacts: Contact) -> RoutingTable:
    made = RoutingTable(identity(0).peer_id, TableSettings(), 1)
    for each in contacts:
        made.answered(each, each.addresses[0], 0.0)
    return made


async def test_who_is_alone_tries_again_and_again_with_longer_pauses(autojump_clock: MockClock) -> None:
    tried_at: list[float] = []

    async def meet(contacts: Sequence[Contact]) -> bool:
        assert contacts == CONTACTS
        tried_at.append(trio.current_time())
        return False

    with trio.move_on_after(3600):
        await come_back(CONTACTS, table(), meet)
    pauses = [round(later - earlier) for earlier, later in itertools.pairwise(tried_at)]
    assert pauses[:8] == [AGAIN_S_MIN, 10, 20, 40, 80, 160, AGAIN_S_MAX, AGAIN_S_MAX]


async def test_who_knows_somebody_tries_nobody(autojump_clock: MockClock) -> None:
    tried: list[Sequence[Contact]] = []
    known = table()

    async def meet(contacts: Sequence[Contact]) -> bool:
        tried.append(contacts)
        known.answered(CONTACTS[0], None, trio.current_time())
        return False  # meanwhile somebody else has turned up

    await come_back(CONTACTS, known, meet)
    await come_back(CONTACTS, known, meet)
    assert tried == [CONTACTS]


async def test_at_the_end_those_known_are_saved_and_who_is_alone_keeps_what_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "peers"

    async def meet(contacts: Sequence[Contact]) -> bool:
        return True

    for known in (table(*CONTACTS[:3]), table()):
        async with trio.open_nursery() as nursery:
            await nursery.start(survive, path, known, meet)
            nursery.cancel_scope.cancel()
        assert {each.peer for each in load_contacts(path)} == {each.peer for each in CONTACTS[:3]}


def test_a_disk_that_takes_nothing_costs_neither_the_node_nor_what_was_saved(tmp_path: Path) -> None:
    save_table(tmp_path / "no such folder" / "peers", table(*CONTACTS).to_save())
    path = tmp_path / "peers"
    save_table(path, table(*CONTACTS).to_save())
    (tmp_path / "peers.new").mkdir()
    save_table(path, table(CONTACTS[0]).to_save())
    assert len(load_contacts(path)) == len(CONTACTS)
