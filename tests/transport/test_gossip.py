"""Gossip among machines that hand each other what they are told to, and against what a neighbour may send."""

import math
import os
import random
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.transport.gossip import (
    AGAIN_EVERY_S,
    AGAIN_MAX,
    AGAIN_S,
    CACHE_BYTES_MAX,
    MESSAGES_BURST,
    OFFERS_MAX,
    SEEN_MAX,
    TRIES_MAX,
    WANT_S,
    WANTED_MAX,
    Answer,
    Arrival,
    Mesh,
    Published,
    Send,
    message_id,
)
from shoal.transport.identity import Identity

COUNT: Final = 100_000 if os.environ.get("SHOAL_SOAK") else 300
NODES: Final = [Identity.from_seed(bytes([index]) * 32) for index in range(12)]
BOB, CAROL = NODES[1], NODES[2]
NEWS: Final = Published("t", b"news")


def mesh_of(*neighbours: Identity, topics: tuple[str, ...] = ("t",)) -> Mesh:
    mesh = Mesh()
    mesh.topics = set(topics)
    for neighbour in neighbours:
        mesh.connected(neighbour.peer_id)
        mesh.subscribed(neighbour.peer_id, topics)
    return mesh


def spread(links: set[tuple[int, int]], count: int, seed: int) -> tuple[list[int], int]:
    """Node 0 publishes once. Returns how often each node got the message, and how often its bytes travelled."""
    meshes = [Mesh() for _ in range(count)]
    for one, other in links:
        for a, b in ((one, other), (other, one)):
            meshes[a].topics = {"t"}
            meshes[a].connected(NODES[b].peer_id)
            meshes[a].subscribed(NODES[b].peer_id, ["t"])
    index_of = {node.peer_id: index for index, node in enumerate(NODES)}
    rng = random.Random(seed)
    got, carried, now = [0] * count, 0, 0.0
    waiting = [(0, send) for send in meshes[0].publish("t", b"news")]
    while waiting:
        now += 0.1
        sender, send = waiting.pop(rng.randrange(len(waiting)))
        receiver, sender_id = index_of[send.peer], NODES[sender].peer_id
        if send.is_offer and not meshes[receiver].offered(sender_id, [send.id], now).wanted:
            continue
        message = meshes[sender].cached(send.id)
        assert message is not None
        carried += 1
        arrival = meshes[receiver].receive(sender_id, message, now)
        if arrival is not None:
            got[receiver] += 1
            waiting += [(receiver, each) for each in meshes[receiver].accept(sender_id, arrival, now)]
        if not waiting:
            waiting += [(index, each) for index, mesh in enumerate(meshes) for each in mesh.due(math.inf)]
    return got, carried


@st.composite
def connected_graphs(draw: st.DrawFn) -> tuple[int, set[tuple[int, int]]]:
    count = draw(st.integers(2, 12))
    links = {(draw(st.integers(0, node - 1)), node) for node in range(1, count)}
    more = draw(st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=20))
    return count, links | {(min(link), max(link)) for link in more if link[0] != link[1]}


@settings(max_examples=COUNT, deadline=None)
@given(connected_graphs(), st.integers(0, 10**6))
def test_everybody_gets_a_message_once_whoever_is_connected_with_whom(
    graph: tuple[int, set[tuple[int, int]]], seed: int
) -> None:
    count, links = graph
    got, carried = spread(links, count, seed)
    assert got == [0] + [1] * (count - 1)
    # Its bytes travel once to each; but what the source is still handing over, another may have handed over before.
    assert carried <= count - 1 + sum(0 in link for link in links)


def test_a_message_that_was_asked_for_and_does_not_come_is_asked_of_another() -> None:
    mesh = mesh_of(BOB, CAROL)
    id = message_id("t", b"some")
    assert mesh.offered(BOB.peer_id, [id], 0.0).wanted == [id]
    assert mesh.offered(CAROL.peer_id, [id], WANT_S / 2).wanted == []
    assert mesh.offered(CAROL.peer_id, [id], WANT_S).wanted == [id]


def test_who_offers_first_and_never_delivers_keeps_a_message_from_nobody() -> None:
    victim, relay = mesh_of(BOB, CAROL), mesh_of(NODES[0])
    id = message_id("t", NEWS.data)
    assert victim.offered(BOB.peer_id, [id], 0.0).wanted == [id]  # who has nothing to hand over
    relay.connected(NODES[6].peer_id)
    arrival = relay.receive(NODES[6].peer_id, NEWS, 0.0)
    assert isinstance(arrival, Arrival)
    offers, now, handed = relay.accept(NODES[6].peer_id, arrival, 0.0), 0.0, list[Send]()
    for _ in range(2):
        answer = victim.offered(CAROL.peer_id, [id], now)
        handed = relay.answered(offers, answer, now)
        if handed:
            break
        assert answer == Answer([], [id])
        now = relay.deadline
        assert victim.offered(BOB.peer_id, [id], now).wanted == []  # it had its chance
        offers = relay.due(now)
    assert [send.id for send in handed] == [id]
    assert isinstance(victim.receive(CAROL.peer_id, NEWS, now), Arrival)


def test_an_offer_is_repeated_to_who_waits_for_somebody_else_and_not_for_ever() -> None:
    mesh = mesh_of(BOB, CAROL)
    sends = mesh.publish("t", b"news")
    ids, now, count = [sends[0].id], 0.0, 0
    while sends:
        assert mesh.answered(sends, Answer([], ids), now) == []
        count, now = count + 1, mesh.deadline
        sends = mesh.due(now)
    assert count == TRIES_MAX
    many = [Send(BOB.peer_id, number.to_bytes(16), is_offer=True) for number in range(2 * AGAIN_MAX)]
    mesh.answered(many, Answer([], [send.id for send in many]), 0.0)
    assert len(mesh._again) == AGAIN_MAX  # pyright: ignore[reportPrivateUsage]


def test_what_could_not_be_handed_over_is_handed_over_again_and_not_for_ever() -> None:
    mesh = mesh_of(BOB)
    sends, now, count = mesh.publish("t", b"news"), 0.0, 0
    while sends:
        (send,) = sends
        assert not send.is_offer
        mesh.undelivered(send, now)
        count, now = count + 1, mesh.deadline
        sends = mesh.due(now)
    assert count == TRIES_MAX
    for number in range(2 * AGAIN_MAX):
        mesh.undelivered(Send(BOB.peer_id, number.to_bytes(16), is_offer=True), 0.0)
    assert len(mesh._again) == AGAIN_MAX  # pyright: ignore[reportPrivateUsage]


def test_who_answers_that_it_has_a_message_is_not_told_again() -> None:
    mesh = mesh_of(BOB)
    (send,) = mesh.publish("t", b"news")
    assert mesh.answered([send], Answer([], []), 0.0) == []
    assert mesh.is_needless(send)
    assert mesh.due(1e9) == []


def test_who_is_known_to_have_a_message_is_not_told_of_it() -> None:
    mesh = mesh_of(BOB, CAROL)
    arrival = mesh.receive(BOB.peer_id, NEWS, 0.0)
    assert isinstance(arrival, Arrival)
    (send,) = mesh.accept(BOB.peer_id, arrival, 0.0)
    assert send == Send(CAROL.peer_id, arrival.id, is_offer=True)
    assert not mesh.is_needless(send)
    mesh.offered(CAROL.peer_id, [arrival.id], 0.0)
    assert mesh.is_needless(send)


def test_who_subscribes_later_is_offered_what_is_still_remembered() -> None:
    mesh = mesh_of()
    mesh.publish("t", b"old")
    mesh.publish("other", b"old")
    mesh.connected(BOB.peer_id)
    (send,) = mesh.subscribed(BOB.peer_id, ["t"])
    assert send.is_offer
    assert mesh.subscribed(BOB.peer_id, ["t"]) == []


def test_who_subscribes_late_is_offered_a_bounded_number() -> None:
    mesh = mesh_of()
    for number in range(2 * OFFERS_MAX):
        mesh.publish("t", b"%d" % number)
    mesh.connected(BOB.peer_id)
    assert len(mesh.subscribed(BOB.peer_id, ["t"])) == OFFERS_MAX


def test_only_subscribers_are_told() -> None:
    mesh = mesh_of(BOB)
    mesh.connected(CAROL.peer_id)
    assert [send.peer for send in mesh.publish("t", b"1")] == [BOB.peer_id]
    mesh.subscribed(BOB.peer_id, [])
    assert mesh.publish("t", b"2") == []


def test_strangers_and_the_disconnected_are_neither_heard_nor_told() -> None:
    mesh = mesh_of(BOB)
    mesh.disconnected(BOB.peer_id)
    assert mesh.receive(BOB.peer_id, NEWS, 0.0) is None
    assert mesh.offered(BOB.peer_id, [message_id("t", NEWS.data)], 0.0).wanted == []
    assert mesh.subscribed(BOB.peer_id, ["t"]) == []
    assert mesh.publish("t", b"1") == []


def test_topics_nobody_here_subscribes_to_and_own_messages_are_of_no_interest() -> None:
    mesh = mesh_of(BOB)
    mesh.publish("t", NEWS.data)
    assert mesh.receive(BOB.peer_id, Published("other", b""), 0.0) is None
    assert mesh.receive(BOB.peer_id, NEWS, 0.0) is None


def test_what_came_another_way_is_not_asked_for() -> None:
    mesh = mesh_of(BOB, CAROL)
    id = message_id("t", NEWS.data)
    assert mesh.offered(BOB.peer_id, [id], 0.0).wanted == [id]
    mesh.heard("t", NEWS.data)
    assert mesh.offered(CAROL.peer_id, [id], WANT_S) == Answer([], [])
    assert mesh.receive(BOB.peer_id, NEWS, WANT_S) is None
    assert mesh.offered(BOB.peer_id, [message_id("other", NEWS.data)], WANT_S).wanted  # another topic's is another


def test_what_is_published_again_is_handed_to_who_is_not_known_to_have_it() -> None:
    mesh = mesh_of(BOB, CAROL)
    (first, _) = mesh.publish("t", NEWS.data)
    mesh.answered([first], Answer([], []), 0.0)
    assert [send.peer for send in mesh.publish("t", NEWS.data)] == [
        peer for peer in (BOB.peer_id, CAROL.peer_id) if peer != first.peer
    ]


def test_what_was_refused_as_invalid_is_neither_heard_again_nor_passed_on() -> None:
    mesh = mesh_of(BOB, CAROL)
    id = message_id("t", NEWS.data)
    assert isinstance(mesh.receive(BOB.peer_id, NEWS, 0.0), Arrival)  # and never accepted
    assert mesh.receive(CAROL.peer_id, NEWS, 0.0) is None
    assert mesh.cached(id) is None
    assert mesh.offered(CAROL.peer_id, [id], 10.0).wanted == []


def test_whom_the_publisher_tells_nobody_else_offers_the_message_at_once() -> None:
    source, mesh = mesh_of(BOB, CAROL), mesh_of(NODES[0], CAROL, NODES[3])
    (send, _) = source.publish("t", NEWS.data)
    message = source.cached(send.id)
    assert message is not None
    arrival = mesh.receive(NODES[0].peer_id, message, 0.1)
    assert arrival is not None
    assert mesh.accept(NODES[0].peer_id, arrival, 0.1) == [Send(NODES[3].peer_id, send.id, is_offer=True)]
    later = mesh.deadline
    assert 0.1 + AGAIN_S <= later <= 0.1 + AGAIN_S + AGAIN_EVERY_S
    assert mesh.due(later) == [Send(CAROL.peer_id, send.id, is_offer=True)]  # who may have been named and not told


def test_among_neighbours_of_one_another_a_message_makes_no_offers_to_who_has_offered_it() -> None:
    source, mesh = mesh_of(BOB, CAROL), mesh_of(NODES[0], CAROL)
    (send, _) = source.publish("t", NEWS.data)
    message = source.cached(send.id)
    assert message is not None
    arrival = mesh.receive(NODES[0].peer_id, message, 0.0)
    assert arrival is not None
    assert mesh.accept(NODES[0].peer_id, arrival, 0.0) == []
    mesh.offered(CAROL.peer_id, [send.id], 1.0)
    assert mesh.due(math.inf) == []


def test_a_flood_from_one_neighbour_is_cut_and_the_others_are_heard() -> None:
    mesh = mesh_of(BOB, CAROL)
    flood = [Published("t", b"%d" % number) for number in range(2 * MESSAGES_BURST)]
    arrivals = [mesh.receive(BOB.peer_id, message, 0.0) for message in flood]
    assert sum(isinstance(arrival, Arrival) for arrival in arrivals) == MESSAGES_BURST
    assert isinstance(mesh.receive(CAROL.peer_id, flood[-1], 0.0), Arrival)
    assert isinstance(mesh.receive(BOB.peer_id, flood[-2], 1.0), Arrival)


@pytest.mark.parametrize("size", [0, 60_000])
def test_what_is_remembered_for_others_is_bounded(size: int) -> None:
    mesh = mesh_of()
    ids: list[bytes] = []
    for number in range(CACHE_BYTES_MAX // max(size, 1024) + 100):
        data = number.to_bytes(4) + bytes(size)
        ids.append(message_id("t", data))
        mesh.publish("t", data)
    remembered = [each for id in ids if (each := mesh.cached(id)) is not None]
    assert sum(len(each.data) + 1024 for each in remembered) <= CACHE_BYTES_MAX
    assert len(remembered) > CACHE_BYTES_MAX // (size + 2048)


def test_what_is_wanted_is_bounded() -> None:
    mesh = mesh_of(BOB)
    ids = [index.to_bytes(16, "big") for index in range(WANTED_MAX + 10)]
    for id in ids:
        assert mesh.offered(BOB.peer_id, [id], 0.0).wanted == [id]
    assert mesh.offered(BOB.peer_id, [ids[0]], 0.1).wanted == [ids[0]]  # forgotten, so asked for again
    assert mesh.offered(BOB.peer_id, [ids[-1]], 0.1).wanted == []


def test_the_memory_of_what_was_seen_is_bounded() -> None:
    mesh = mesh_of(BOB)
    first = message_id("t", b"first")
    mesh.publish("t", b"first")
    for number in range(1, SEEN_MAX + 1):
        mesh.publish("t", number.to_bytes(4, "big"))
    assert mesh.offered(BOB.peer_id, [first], 0.0).wanted == [first]
