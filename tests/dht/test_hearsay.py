"""Whose word about addresses is taken."""

from shoal.dht.contacts import Contact
from shoal.dht.hearsay import own_addresses, worth_dialing
from shoal.dht.messages import KadMessage, MessageKind
from shoal.dht.peer_records import seal_addresses
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


def test_a_peer_met_in_public_listens_nowhere_if_all_it_names_is_private() -> None:
    at_home = seal_addresses(identity(1), (PRIVATE, LOOPBACK), 1)
    assert own_addresses(at_home, PEER, PUBLIC) == ()
    assert own_addresses(at_home, PEER, PRIVATE) == (PRIVATE, LOOPBACK)
    assert own_addresses(seal_addresses(identity(1), (PRIVATE, PUBLIC), 1), PEER, PUBLIC) == (PUBLIC,)
