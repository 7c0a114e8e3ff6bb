"""Anti-entropy of a simulated node: carries what the cores of the exchange say, as a shell does."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from shoal.crdt.dots import Writer
from shoal.crdt.exchange import Asking, Exchanges
from shoal.crdt.exchange_messages import Calls, Compare, Compared, Settle, Settled
from shoal.crdt.heads import SALT_BYTES
from shoal.crdt.partners import Partners
from shoal.crdt.replica import Admission, Replica
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed, decode, encode

from .store_network import Endpoint, StoreNetwork

PATIENCE_S: Final = 3.0  # with one answer; what is lost here would over TCP come later
BUSY: Final = b""
SOON_S: Final = 0.001

Take = Callable[[bytes], Admission]
Heard = Callable[[bytes], None]


class StoreExchanges:
    """A node's exchanges. `take` is given all batches that come, `heard` those of them that were news."""

    def __init__(
        self, replica: Replica, own: Writer, network: StoreNetwork, node: Endpoint, take: Take, heard: Heard
    ) -> None:
        self.cores = Exchanges(replica, own)
        self.partners = Partners(network.draw.randrange(2**32), network.now)
        self.calls = Calls(replica.swarm)
        self._network, self._node, self._take, self._heard = network, node, take, heard
        self._wakes_at = math.inf
        self._wake()

    def connected(self, peer: PeerId) -> None:
        self.partners.connected(peer, self._network.now)
        self._wake()

    def disconnected(self, peer: PeerId) -> None:
        self.partners.disconnected(peer)

    def missing(self, peer: PeerId) -> None:
        """Something that follows what is missing came from `peer`."""
        self.partners.is_missing(peer, self._network.now)
        self._wake()

    def update(self, writers: Iterable[Writer]) -> None:
        self.cores.update(writers)

    def answer(self, peer: PeerId, method: str, data: bytes) -> bytes | None:
        if method == self.calls.compare.name:
            compare = decode(data, Compare, self.calls.compare.request_bytes_max)
            if isinstance(compare, Malformed):
                return None
            compared = self.cores.compared(peer, compare, self._network.now)
            return encode(compared) if isinstance(compared, Compared) else BUSY
        if method == self.calls.settle.name:
            settle = decode(data, Settle, self.calls.settle.request_bytes_max)
            if isinstance(settle, Malformed):
                return None
            settled = self.cores.settled(peer, settle, self._network.now)
            if not isinstance(settled, Settled):
                return BUSY
            self._take_all(peer, settle.batches, None)
            return encode(settled)
        return None

    def _take_all(self, peer: PeerId, batches: Sequence[bytes], asking: Asking | None) -> None:
        kept_count = 0
        for data in batches:
            admission = self._take(data)
            if admission.is_news:
                self._heard(data)
            kept_count += len(admission.kept)
            if asking is not None:
                asking.took(admission)
            elif admission.refusal is not None:
                self.partners.doubt(peer, self._network.now)
            if admission.refusal is not None:
                break
        if kept_count:
            self.partners.has_news(peer, self._network.now)
            self._wake()

    def _wake(self) -> None:
        deadline = self.partners.deadline
        if deadline < self._wakes_at:
            self._wakes_at = max(deadline, self._network.now + SOON_S)
            self._network.at(self._wakes_at, self._begin)

    def _begin(self) -> None:
        if self._network.is_running(self._node):
            self._wakes_at = math.inf
            while (peer := self.partners.begin(self._network.now)) is not None:
                self._ask(peer, self.cores.ask(peer, self._network.draw.randbytes(SALT_BYTES)))
            self._wake()

    def _ask(self, peer: PeerId, asking: Asking) -> None:
        question = asking.question
        if question is None:
            self.partners.ended(peer, asking.outcome, self._network.now)
            self._wake()
            return
        method = self.calls.compare if isinstance(question, Compare) else self.calls.settle
        self._network.call(
            self._node,
            peer,
            method.name,
            encode(question),
            lambda reply: self._answered(peer, asking, reply),
            PATIENCE_S,
        )

    def _answered(self, peer: PeerId, asking: Asking, reply: bytes | None) -> None:
        if reply is None:
            asking.fail("no answer")
        elif reply == BUSY:
            asking.leave()
        else:
            method = self.calls.compare if isinstance(asking.question, Compare) else self.calls.settle
            answer: Compared | Settled | Malformed = decode(reply, method.reply_type, method.reply_bytes_max)
            if isinstance(answer, Malformed):
                asking.fail(answer.reason)
            else:
                self._take_all(peer, asking.answered(answer, self._network.now), asking)
                asking.go_on(self._network.now)
        self._ask(peer, asking)
