"""A bucket that strangers' keys have crowded keeps nobody from learning how far its own chain goes."""

import pytest

from shoal.crdt.exchange import Exchanges
from shoal.crdt.exchange_messages import HEADS_MAX, Compare, Compared
from shoal.crdt.heads import BUCKETS, SALT_BYTES, bucket_of
from shoal.crdt.operation import Operation, Stretch
from shoal.crdt.replica import Replica
from shoal.transport.identity import SIGNATURE_BYTES, peer_id_of

from .test_exchange import OPEN, B, exchange, exchanges, run
from .test_replica import KEYS, SWARM


class _Unsigned:
    """A writer whose key was ground, with as many others', until it fell into a certain bucket."""

    def __init__(self, bucket: int, number: int) -> None:
        self.public_key = bytes([bucket * 256 // BUCKETS]) + number.to_bytes(31, "big")

    def sign(self, message: bytes) -> bytes:
        return bytes(SIGNATURE_BYTES)


def crowd(target: Exchanges, bucket: int) -> None:
    """More writers in a bucket than an answer has room for."""
    for number in range(HEADS_MAX + 1):
        target.replica.write(_Unsigned(bucket, number), [Operation("set", ("k",), b"v")])
    target.update(target.replica.heads())


@pytest.mark.parametrize("written_count", [0, 1, 2])
def test_how_far_ones_own_chain_goes_is_told_also_of_a_crowded_bucket(written_count: int) -> None:
    """By one who has one operation: the asker has none, the same, or one more."""
    asker, other = exchanges(verify=False), exchanges(verify=False)
    crowd(other, bucket_of(asker.own))
    own = Replica(SWARM, OPEN)
    batches = [own.write(KEYS[0], [Operation("set", (str(number),), b"v")]) for number in range(2)]
    for stretch in batches[:written_count]:
        assert isinstance(stretch, Stretch)
        assert asker.take(stretch.data).kept
    assert isinstance(batches[0], Stretch)
    assert other.take(batches[0].data).kept
    asking = asker.ask(B, bytes(SALT_BYTES))
    assert isinstance(asking.question, Compare)
    compared = other.compared(peer_id_of(asker.own), asking.question, 0.0)
    assert isinstance(compared, Compared)
    assert not compared.is_whole
    outcome = run(asking, other, asker)
    assert outcome.agrees  # by now: the guard hears of what came back
    assert asker.short_head(asker.own) is not None
    assert other.short_head(asker.own) == asker.short_head(asker.own)


def test_one_who_knows_nothing_of_the_asker_says_so_also_of_a_crowded_bucket() -> None:
    asker, other = exchanges(verify=False), exchanges(verify=False)
    crowd(other, bucket_of(asker.own))
    assert exchange(asker, other).agrees
