"""Anti-entropy of a simulated node."""

from collections.abc import Callable
from typing import Final

from shoal.crdt.dots import Writer
from shoal.crdt.replica import Admission, Replica
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed, Message, decode, encode

from .store_network import Endpoint, StoreNetwork

COMPARE_S: Final = (1.0, 3.0)


class Row(Message, frozen=True):
    writer: bytes
    number: int
    hash: bytes
    is_forked: bool


class Heads(Message, frozen=True):
    rows: tuple[Row, ...]


class Batches(Message, frozen=True):
    batches: tuple[bytes, ...]


class StoreExchanges:
    """All heads there, all that is newer back; and whoever got news says so to its neighbours."""

    def __init__(
        self, replica: Replica, network: StoreNetwork, node: Endpoint, take: Callable[[bytes, PeerId], Admission]
    ) -> None:
        self._replica, self._network, self._node, self._take = replica, network, node, take
        self._neighbours: set[PeerId] = set()
        self._asked: set[PeerId] = set()
        network.after(COMPARE_S, self._compare_often)

    def connected(self, peer: PeerId) -> None:
        self._neighbours.add(peer)
        self._compare(peer)

    def disconnected(self, peer: PeerId) -> None:
        self._neighbours.discard(peer)

    def answer(self, peer: PeerId, method: str, data: bytes) -> bytes | None:
        if method == "stale":
            self._network.after((0.0, 0.5), self._compare, peer)
        heads = decode(data, Heads, 2**20) if method == "compare" else None
        return None if heads is None or isinstance(heads, Malformed) else self._newer(heads)

    def _newer(self, heads: Heads) -> bytes:
        theirs = {row.writer: row for row in heads.rows}
        batches: list[bytes] = []
        for writer, head in self._replica.heads().items():
            row = theirs.get(writer)
            chain = self._replica.chain(writer)
            if chain is not None and row != Row(writer, head.number, head.hash, head.is_forked):
                after = 0 if row is None or head.is_forked or row.is_forked else row.number
                batches += chain.batches_after(max(after, 0))
        return encode(Batches(tuple(batches)))

    def _compare_often(self) -> None:
        if self._network.is_running(self._node):
            self._network.after(COMPARE_S, self._compare_often)
            peers = sorted(self._neighbours - self._asked)
            if peers:
                self._compare(self._network.draw.choice(peers))

    def _compare(self, peer: PeerId) -> None:
        if peer in self._asked or peer not in self._neighbours:
            return
        self._asked.add(peer)
        heads = self._replica.heads().items()
        rows = tuple(Row(Writer(writer), head.number, head.hash, head.is_forked) for writer, head in heads)
        self._network.call(self._node, peer, "compare", encode(Heads(rows)), lambda reply: self._compared(peer, reply))

    def _compared(self, peer: PeerId, reply: bytes | None) -> None:
        self._asked.discard(peer)
        batches = Malformed("no answer") if reply is None else decode(reply, Batches, 2**24)
        if isinstance(batches, Malformed):
            return
        admissions = [self._take(data, peer) for data in batches.batches]
        if any(admission.kept for admission in admissions):
            for other in sorted(self._neighbours - {peer}):
                self._network.call(self._node, other, "stale", b"", lambda _: None)
