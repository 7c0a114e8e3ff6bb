"""Whose word about addresses is taken."""

from shoal.dht.contacts import Contact
from shoal.dht.hearsay import worth_dialing
from shoal.dht.messages import KadMessage, MessageKind
from shoal.transport.port import Address
from tests.dht.peers import identity

PEER = identity(1).peer_id
LOOPBACK, PRIVATE, PUBLIC = (
    Address(f"/ip4/{host}/tcp/1/p2p/{PEER}") for host in ("127.0.0.1", "192.168.1.1", "8.8.8.8")
)
ANSWER = KadMessage(
    MessageKind.GET_PROVIDERS,
    closer=(Contact(PEER, (LOOPBACK, PUBLIC)),),
    providers=(Contact(PEER, (PRIVATE, PUBLIC)),),
)


def test_a_neighbour_may_name_private_addresses() -> None:
    assert worth_dialing(ANSWER, PRIVATE) == ANSWER
    assert worth_dialing(ANSWER, LOOPBACK) == ANSWER


def test_from_afar_only_public_addresses_are_taken() -> None:
    public = (Contact(PEER, (PUBLIC,)),)
    for met_at in (PUBLIC, None):
        answer = worth_dialing(ANSWER, met_at)
        assert answer.closer == public
        assert answer.providers == public
