"""Invites: what they hold, and that no mistyped one passes."""

import base64
import contextlib
import os

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.node.complaint import Complaint, Exit
from shoal.node.invite import (
    ADDRESSES_PER_MEMBER_MAX,
    MEMBERS_MAX,
    PREFIX,
    VERSION,
    Granted,
    Invite,
    InvitedBy,
    best,
    checksum,
    format_invite,
    make_invite,
    parse_invite,
)
from shoal.node.looking import Offer
from shoal.training.admission import make_ticket
from shoal.training.spec import AdmissionRule, Spec, sign_spec, swarm_id
from shoal.transport.identity import Identity
from shoal.transport.port import Address, Connection, PeerId

EXAMPLES = 20_000 if os.environ.get("SHOAL_SOAK") else 300
SWARM = bytes(range(32))
ME = Identity.from_seed(bytes(32))
OWN = ME.peer_id
TICKET = make_ticket(ME, SWARM, bytes(range(1, 33)))
keys = st.binary(min_size=32, max_size=32)
places = st.lists(st.integers(1, 65_535).map(lambda port: f"/ip4/198.51.100.7/tcp/{port}"), min_size=1, max_size=8)
invites = st.builds(
    Invite,
    keys,
    st.lists(st.builds(InvitedBy, keys, places.map(tuple)), min_size=1, max_size=16).map(tuple),
    st.none() | keys,
    st.none() | st.builds(Granted, keys, st.binary(min_size=64, max_size=64)),
)


def peer(number: int) -> PeerId:
    return Identity.from_seed(number.to_bytes(32, "big")).peer_id


def connection(number: int, address: str, *, is_relayed: bool = False, is_outbound: bool = True) -> Connection:
    return Connection(peer(number), Address(f"{address}/p2p/{peer(number)}"), is_relayed, is_outbound, None, 0, 0)


def refusal(text: str) -> str:
    with pytest.raises(Complaint) as caught:
        parse_invite(text)
    assert caught.value.code is Exit.INVITE
    return str(caught.value)


@given(invites)
def test_an_invite_reads_back_as_it_was(invite: Invite) -> None:
    assert parse_invite(format_invite(invite)) == invite


@given(invites)
def test_line_breaks_capitals_and_quotes_of_mail_programs_do_no_harm(invite: Invite) -> None:
    text = format_invite(invite)
    assert parse_invite(f' "{text[:30]}\n   {text[30:].upper()}" ') == invite


def test_every_single_mistyped_character_is_noticed() -> None:
    text = format_invite(Invite(SWARM, (InvitedBy(bytes(32), ("/ip4/198.51.100.7/tcp/4011",)),)))
    for place in range(len(PREFIX), len(text) - 1):
        wrong = "b" if text[place] != "b" else "c"
        assert "mistyped or incomplete" in refusal(text[:place] + wrong + text[place + 1 :])


def test_a_cut_or_swapped_invite_is_noticed() -> None:
    text = format_invite(Invite(SWARM, (InvitedBy(bytes(range(32)), ("/ip4/198.51.100.7/tcp/4011",)),)))
    for length in range(len(PREFIX), len(text) - 1):
        assert "mistyped" in refusal(text[:length])
    swapped = text[:20] + text[21] + text[20] + text[22:]
    assert swapped == text or "mistyped" in refusal(swapped)


def test_something_else_than_an_invite_is_named_as_such() -> None:
    assert "an invite begins with 'shoal:', this one with 'https://exam'" in refusal("https://example.com")
    assert "mistyped" in refusal("shoal:")
    assert "mistyped" in refusal("shoal:" + "a" * 100_000)
    assert "mistyped" in refusal("shoal:caf\u00e9")


def test_an_invite_of_a_newer_version_asks_for_a_newer_shoal() -> None:
    body = bytes([VERSION + 1]) + b"whatever comes"
    text = PREFIX + base64.b32encode(body + checksum(body)).decode().rstrip("=").lower()
    assert "newer Shoal" in refusal(text)


def test_a_sound_checksum_over_nonsense_is_refused() -> None:
    body = bytes([VERSION]) + b"\x93\x01\x02\x03"
    assert "not sound" in refusal(PREFIX + base64.b32encode(body + checksum(body)).decode().rstrip("="))


@settings(max_examples=EXAMPLES)
@given(st.text(max_size=300) | st.text("abcdefghijklmnopqrstuvwxyz234567", max_size=300).map(PREFIX.__add__))
def test_any_text_gives_an_invite_or_one_complaint(text: str) -> None:
    with contextlib.suppress(Complaint):
        assert isinstance(parse_invite(text), Invite)


def test_loopback_is_never_first_and_unspecified_never_there() -> None:
    addresses = [
        "/ip4/127.0.0.1/tcp/1",
        "/ip4/0.0.0.0/tcp/1",
        "/ip6/::1/tcp/1",
        f"/ip4/192.168.1.5/tcp/1/p2p/{peer(1)}",
    ]
    assert best(peer(1), addresses) == ("/ip4/192.168.1.5/tcp/1", "/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1")


def test_loopback_alone_is_better_than_nothing() -> None:
    assert best(peer(1), ["/ip4/127.0.0.1/tcp/1"]) == ("/ip4/127.0.0.1/tcp/1",)


def test_an_address_through_a_relay_keeps_the_relays_id() -> None:
    through = f"/ip4/198.51.100.1/tcp/1/p2p/{peer(2)}/p2p-circuit"
    invite = make_invite(SWARM, OWN, [Address(f"{through}/p2p/{OWN}")])
    assert invite.members[0].addresses == (through,)
    assert invite.addresses() == [(OWN, (f"{through}/p2p/{OWN}",))]


def test_an_invite_names_what_was_announced_first_and_only_members_that_were_dialed() -> None:
    own = [Address(f"/ip4/10.0.0.{host}/tcp/1/p2p/{OWN}") for host in range(1, 6)]
    connections = [
        connection(1, "/ip4/198.51.100.1/tcp/4011"),
        connection(
            2, "/ip4/198.51.100.2/tcp/50000", is_outbound=False
        ),  # the port of an accepted connection is no listener
        connection(3, "/ip4/198.51.100.3/tcp/4011", is_relayed=True),
    ]
    invite = make_invite(SWARM, OWN, ["/ip4/203.0.113.7/tcp/4011", *own], connections)
    (first, places), (second, _) = invite.addresses()
    assert (first, second) == (OWN, peer(1))
    assert places[0] == f"/ip4/203.0.113.7/tcp/4011/p2p/{OWN}"
    assert len(places) == ADDRESSES_PER_MEMBER_MAX


def test_an_invite_names_few_members_and_fits_into_a_chat_message() -> None:
    connections = [connection(number, f"/ip4/198.51.100.{number}/tcp/4011") for number in range(1, 30)]
    own = [Address("/ip4/192.168.1.5/tcp/4011")]
    invite = make_invite(SWARM, OWN, own, connections)
    assert len(invite.members) == MEMBERS_MAX
    assert len(format_invite(invite)) < 600
    assert len(format_invite(make_invite(SWARM, OWN, own, connections, TICKET, bytes(32)))) < 800
    assert len(format_invite(make_invite(SWARM, OWN, own, (), TICKET, bytes(32)))) < 400


def offer_of(invite: Invite, creator: Identity = ME, **values: object) -> Offer:
    spec = msgspec.structs.replace(Spec(creator=creator.peer_id, nonce=bytes(16)), **values)
    invite = msgspec.structs.replace(invite, swarm=swarm_id(spec))
    return Offer(invite, sign_spec(spec, creator), spec, OWN)


def test_an_invite_carries_its_makers_ticket_and_a_record() -> None:
    sent = make_invite(
        SWARM, OWN, ["/ip4/192.168.1.5/tcp/4011"], [connection(1, "/ip4/198.51.100.1/tcp/1")], TICKET, SWARM
    )
    came = parse_invite(format_invite(sent))
    assert offer_of(came).ticket == TICKET
    assert came.record == SWARM
    assert offer_of(make_invite(SWARM, OWN, ["/ip4/192.168.1.5/tcp/4011"])).ticket is None


def test_who_gives_a_ticket_is_named_even_if_nobody_can_dial_it() -> None:
    others = [connection(number, f"/ip4/198.51.100.{number}/tcp/4011") for number in range(1, 9)]
    invite = parse_invite(format_invite(make_invite(SWARM, OWN, [], others, TICKET)))
    assert invite.addresses()[0] == (OWN, ())
    assert len(invite.members) == MEMBERS_MAX
    assert offer_of(invite).ticket == TICKET
    assert make_invite(SWARM, OWN, [], others).members[0].peer == peer(1)


def test_an_offer_says_whether_its_invite_lets_one_in() -> None:
    by_invite = offer_of(make_invite(SWARM, OWN, ["/ip4/192.168.1.5/tcp/4011"]))
    assert "no ticket" in str(by_invite.obstacle(peer(1)))
    assert by_invite.obstacle(OWN) is None  # its creator
    ticket = make_ticket(ME, by_invite.invite.swarm, bytes(32))
    granted = make_invite(SWARM, OWN, ["/ip4/192.168.1.5/tcp/4011"], (), ticket)
    assert offer_of(granted).obstacle(peer(1)) is None
    assert "another swarm's" in str(offer_of(granted, name="other").obstacle(peer(1)))
    by_list = offer_of(granted, admission=AdmissionRule.LIST, allowed=(peer(1),))
    assert by_list.obstacle(peer(1)) is None
    assert "NOT on its list" in str(by_list.obstacle(peer(2)))
