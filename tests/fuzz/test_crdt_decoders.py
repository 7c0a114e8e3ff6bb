"""Whatever bytes come, a replica takes them or refuses them once, and what it refuses or knows changes nothing."""

import random
from collections.abc import Callable
from typing import Final

import pytest

from shoal.crdt.counter import Totals
from shoal.crdt.dots import Writer
from shoal.crdt.operation import Batch, Operation, Taken, genesis, read_batch, seal
from shoal.crdt.replica import Replica
from shoal.crdt.rules import Kind, Rule, Rules
from shoal.transport.identity import Identity, verify_by_key
from shoal.transport.wire import encode
from tests.fuzz.garbage import corpus_of
from tests.fuzz.test_decoders import attack

SWARM: Final = bytes(range(32))
KEYS: Final = [Identity.from_seed(bytes([number]) * 32) for number in range(3)]
RULES: Final = Rules(
    {
        "set": Rule(Kind.SET, is_own=False),
        "own": Rule(Kind.REGISTER, value_bytes_max=100),
        "count": Rule(Kind.COUNTER, is_own=False),
    },
    creator=Writer(KEYS[0].public_key),
    writers_max=8,
    operations_max=200,
)


def sound() -> list[bytes]:
    """Chains that fork and take away from one another, and other batches of the right form."""
    found: list[bytes] = []
    for key in KEYS:
        previous = genesis(SWARM, Writer(key.public_key))
        for number in range(1, 7):
            taken = (Taken(KEYS[0].public_key if key is not KEYS[0] else b"", number, previous[:8]),)
            operations = [
                Operation("set", ("a",), b"x" * number, taken),
                Operation("own", (key.peer_id,), b"y", stamp=number),
                Operation("count", ("n",), encode(Totals(number))),
            ][: number % 3 + 1]
            first = 1 + sum(each % 3 + 1 for each in range(1, number))
            twin = seal(key, SWARM, first, previous, [Operation("set", ("b",), b"twin")])
            stretch = seal(key, SWARM, first, previous, operations)
            found += [stretch.data, twin.data] if number > 4 else [stretch.data]
            previous = stretch.hashes[-1]
    return found


CORPUS: Final = [*sound(), *corpus_of(random.Random(7), [Batch], 9)]


def believe(key: bytes, message: bytes, signature: bytes) -> bool:
    return True


def test_any_bytes_are_a_batch_or_one_refusal() -> None:
    attack(read_batch, CORPUS, "batch")


@pytest.mark.parametrize("verify", [verify_by_key, believe])
def test_any_bytes_are_admitted_or_leave_a_replica_as_it_is(verify: Callable[[bytes, bytes, bytes], bool]) -> None:
    target = Replica(SWARM, RULES, verify=verify)
    kept = 0

    def admit(data: bytes) -> object:
        nonlocal kept
        before = target.digest(), target.heads()
        admission = target.admit(data)
        kept += len(admission.kept)
        if not admission.kept:
            assert (target.digest(), target.heads()) == before
        assert admission.refusal is None or not (admission.kept or admission.waits)
        assert len(target.heads()) <= RULES.writers_max
        return admission.refusal

    attack(admit, CORPUS, f"admit {verify.__name__}")
    held = {writer: target.batches(writer) for writer in target.heads()}
    assert kept >= sum(map(len, held.values())) > 0
    newcomer = Replica(SWARM, RULES, verify=verify)
    for batches in held.values():
        for data in batches:
            assert newcomer.admit(data).refusal is None  # nothing was kept that others refuse
    assert (newcomer.digest(), newcomer.heads()) == (target.digest(), target.heads())
