"""What this node answers to a peer's question.

What a malicious peer may ask: anything, as often as its budget of questions allows (ASKED_PER_S; storing costs more
than reading). What it achieves: an answer of bounded size from what is already known, or Malformed, after which the
stream is reset. A question never makes this node ask others, so nobody can make it send more than it was sent but for
the answer itself.
"""

from typing import Final

from shoal.transport.port import Address, PeerId
from shoal.transport.wire import Malformed

from .held import HeldRecords
from .messages import KadMessage
from .providers import Providers
from .routing import RoutingTable

ASKED_PER_S: Final = 200.0
ASKED_BURST: Final = 400


class Answering:
    """The answering side of a node; it shares table and stores with the asking side."""

    def __init__(self, self_id: PeerId, table: RoutingTable, held: HeldRecords, providers: Providers) -> None:
        raise NotImplementedError

    def answer(
        self, sender: PeerId, met_at: Address | None, question: KadMessage, now: float, unix_s: float
    ) -> KadMessage | Malformed:
        """The answer to send, without a sender record; Malformed: reset the stream.

        Args:
            sender: who asks, as the connection proves.
            met_at: the address of that connection.
        """
        raise NotImplementedError

    def gone(self, peer: PeerId) -> None:
        """The last connection to a peer is gone: its budget may be forgotten."""
        raise NotImplementedError
