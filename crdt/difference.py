"""What two replicas lack of one writer's chain, from one replica's chain and the head that the other claims.

The law: if the claim is true, then once both have what is worked out here their heads of this writer are equal, or a
fork has come to light that makes the next comparison equal. If it is false, the other harms nobody but itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from shoal.transport.wire import Malformed, decode

from .chain import Chain, Head
from .dots import Writer
from .exchange_messages import BATCHES_MAX, HASH_BYTES, MARKS_MAX, PIECE_BYTES, Mark, ShortHead, Want
from .operation import BATCH_BYTES_MAX, Batch


class Difference(NamedTuple):
    """What to do about one writer."""

    want: Want | None = None
    give_after: int | None = None  # the number after which the other lacks batches


def short_head(writer: Writer, head: Head) -> ShortHead:
    return ShortHead(writer, head.number, head.hash[:HASH_BYTES], head.is_forked)


def goes_through(chain: Chain, number: int, hash: bytes) -> bool:
    """Whether the operation with this short hash counts in `chain`, or is the frontier's."""
    return chain.base <= number <= chain.number and chain.hash_at(number)[:HASH_BYTES] == hash


def difference(chain: Chain, theirs: ShortHead | None) -> Difference:
    """What either side lacks. `chain` may be one that begins here; theirs None: they have nothing of it."""
    if theirs is None:
        return Difference(None, 0 if chain.base == 0 and (chain.number or chain.is_forked) else None)
    mine = chain.head
    if theirs == short_head(chain.writer, mine):
        return Difference()
    if theirs.number < chain.base:
        return Difference()  # they need the snapshot, and learn so when they ask
    if theirs.number <= mine.number and not goes_through(chain, theirs.number, theirs.hash):
        return Difference(search(chain))
    # As far as can be seen from here one chain goes on from the other. The lower fork is the one that counts.
    low = min(mine.number, theirs.number)
    lacks_more = not mine.is_forked and theirs.number > mine.number
    lacks_proof = theirs.is_forked and not (mine.is_forked and mine.number <= theirs.number)
    they_lack_more = not theirs.is_forked and mine.number > theirs.number
    they_lack_proof = mine.is_forked and not (theirs.is_forked and theirs.number <= mine.number)
    return Difference(
        Want(chain.writer, (_mark(chain, low),)) if lacks_more or lacks_proof else None,
        low if they_lack_more or they_lack_proof else None,
    )


def search(chain: Chain) -> Want:
    """Ask from where two chains part: what comes is at most twice what lies above."""
    return Want(chain.writer, tuple(_mark(chain, number) for number in _spaced(chain.base, chain.number)))


def _spaced(base: int, number: int) -> Iterator[int]:
    distance = 0
    for _ in range(MARKS_MAX - 1):
        if number - distance <= base:
            break
        yield number - distance
        distance = 2 * distance or 1
    yield base


def _mark(chain: Chain, number: int) -> Mark:
    return Mark(number, chain.hash_at(number)[:HASH_BYTES])


@dataclass(slots=True)
class Piece:
    """Batches that go into one message."""

    batches: list[bytes] = field(default_factory=list[bytes])
    size: int = 0

    def fill(self, chain: Chain, after: int) -> int | None:
        """Put in what the chain has after a number. Returns the one after which there was no room; None: all is in."""
        last: bytes | None = None
        for data in chain.batches_after(after):
            if len(self.batches) == BATCHES_MAX or self.size + len(data) > PIECE_BYTES:
                return after if last is None else min(_end(last), chain.number)
            self.batches.append(data)
            self.size += len(data)
            last = data
        return None


def _end(data: bytes) -> int:
    batch = decode(data, Batch, BATCH_BYTES_MAX)
    if isinstance(batch, Malformed):
        raise ValueError(batch.reason)  # it was read when it came
    return batch.first + len(batch.operations) - 1
