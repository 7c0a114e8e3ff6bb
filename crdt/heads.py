"""How far all chains go, in one digest that costs little to keep and little to compare: a hash tree of one level.

Writers fall into BUCKETS by their keys. Each bucket has the digest of its heads, all together one of theirs: equal for
equal heads. Two replicas that differ compare buckets, and then only the heads of those that differ.

What a malicious writer may do is choose keys that fall into one bucket: its heads then travel together, up to
`rules.writers_max`. What it cannot: make two states look the same. On the wire the buckets' digests are short, but each
exchange salts them anew; the digest of all is not short.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from blake3 import blake3

from shoal.transport.wire import encode

from .chain import Head
from .dots import Writer
from .replica import Replica

# With 64 the heads of 5,000 writers of whom 3 differ take 14 KB; with 256 a question without an answer takes 1.6 KB.
BUCKETS: Final = 128
SHORT_BYTES: Final = 6  # of a bucket's digest in a question
SALT_BYTES: Final = 16

_EMPTY: Final = blake3(encode(())).digest()


def bucket_of(writer: Writer) -> int:
    return writer[0] * BUCKETS // 256


class Heads:
    """The heads of a replica's chains. Whoever changes the replica says of whom: `update`."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._buckets: list[dict[Writer, Head]] = [{} for _ in range(BUCKETS)]
        self._digests: list[bytes | None] = [_EMPTY] * BUCKETS  # None: not worked out since it changed
        self._digest: bytes | None = None
        for writer, head in replica.heads().items():
            self._set(writer, head)

    def update(self, writers: Iterable[Writer]) -> None:
        """These writers' chains may have changed."""
        for writer in writers:
            chain = self._replica.chain(writer)
            self._set(writer, None if chain is None else chain.head)

    @property
    def digest(self) -> bytes:
        """32 bytes, equal for equal heads of all writers."""
        if self._digest is None:
            self._digest = blake3(b"".join(self._bucket_digests())).digest()
        return self._digest

    def short(self, salt: bytes) -> bytes:
        """The digests of all buckets, SHORT_BYTES each."""
        return b"".join(self._short(salt))

    def differing(self, salt: bytes, short: bytes, start: int) -> Iterator[int]:
        """The buckets that differ from those of whom `short` is, from `start` on and around."""
        mine = self._short(salt)
        for bucket in (*range(start, BUCKETS), *range(start)):
            at = bucket * SHORT_BYTES
            if mine[bucket] != short[at : at + SHORT_BYTES]:
                yield bucket

    def bucket(self, number: int) -> Mapping[Writer, Head]:
        """The heads in it; not to be changed."""
        return self._buckets[number]

    def _set(self, writer: Writer, head: Head | None) -> None:
        number = bucket_of(writer)
        bucket = self._buckets[number]
        if bucket.get(writer) != head:
            if head is None:
                del bucket[writer]
            else:
                bucket[writer] = head
            self._digests[number] = self._digest = None

    def _short(self, salt: bytes) -> list[bytes]:
        short: list[bytes] = []
        empty = blake3(salt + _EMPTY).digest(SHORT_BYTES)
        hasher = blake3()  # one for all: to make one costs more than to hash so little
        for digest in self._bucket_digests():
            if digest is _EMPTY:  # most, where members are few
                short.append(empty)
                continue
            hasher.reset()
            hasher.update(salt + digest)
            short.append(hasher.digest(SHORT_BYTES))
        return short

    def _bucket_digests(self) -> list[bytes]:
        return [known or self._bucket_digest(number) for number, known in enumerate(self._digests)]

    def _bucket_digest(self, number: int) -> bytes:
        heads = self._buckets[number]
        rows = [(writer, head.number, head.hash, head.is_forked) for writer, head in sorted(heads.items())]
        digest = self._digests[number] = blake3(encode(rows)).digest()
        return digest
