"""What this node answers to a peer's question.

What a malicious peer may ask: anything, as often as its budget of questions allows (ASKED_PER_S; storing costs more
than reading). What it achieves: an answer of bounded size from what is already known, or Malformed, after which the
stream is reset. A question never makes this node ask others, so nobody can make it send more than it was sent but for
the answer itself.
"""

from dataclasses import replace
from typing import Final

from shoal.transport.port import Address, PeerId
from shoal.transport.token_bucket import TokenBucket
from shoal.transport.wire import Malformed, encode

from .contacts import Contact
from .hearsay import own_addresses, worth_of
from .held import HeldRecords
from .keys import PROVIDER_KEY_BYTES_MAX, position_of
from .messages import CONTACTS_MAX, KadMessage, MessageKind
from .providers import Providers
from .records import open_record
from .routing import RoutingTable

ASKED_PER_S: Final = 200.0
ASKED_BURST: Final = 400
BUDGETS_MAX: Final = 4096  # more peers than a node has connections


class Answering:
    """The answering side of a node; it shares table and stores with the asking side."""

    def __init__(self, self_id: PeerId, table: RoutingTable, held: HeldRecords, providers: Providers) -> None:
        self._self_id = self_id
        self._table, self._held, self._providers = table, held, providers
        self._budgets: dict[PeerId, TokenBucket] = {}

    def answer(
        self, sender: PeerId, met_at: Address | None, question: KadMessage, now: float, unix_s: float
    ) -> KadMessage | Malformed:
        """The answer to send, without a sender record; Malformed: reset the stream.

        Args:
            sender: who asks, as the connection proves.
            met_at: the address of that connection.
        """
        budget = self._budgets.setdefault(sender, TokenBucket(ASKED_PER_S, ASKED_BURST))
        if len(self._budgets) > BUDGETS_MAX:
            del self._budgets[next(iter(self._budgets))]
        if not budget.take(now):
            return Malformed(f"more than {ASKED_PER_S:.0f} questions a second")
        self._table.asked(Contact(sender, own_addresses(question.sender_record, sender, met_at)), met_at, now)
        match question.kind:
            case MessageKind.PING:
                return KadMessage(MessageKind.PING)
            case MessageKind.FIND_NODE:
                return self._found(sender, question)
            case MessageKind.GET_VALUE:
                record = self._held.get(question.key, now, unix_s)
                return replace(self._found(sender, question), value=None if record is None else encode(record))
            case MessageKind.GET_PROVIDERS:
                return replace(self._found(sender, question), providers=self._providers.get(question.key, now))
            case MessageKind.PUT_VALUE:
                return self._put(met_at, question, now, unix_s)
            case MessageKind.ADD_PROVIDER:
                return self._add_provider(sender, met_at, question, now)

    def gone(self, peer: PeerId) -> None:
        """The last connection to a peer is gone: its budget may be forgotten."""
        self._budgets.pop(peer, None)

    def _found(self, sender: PeerId, question: KadMessage) -> KadMessage:
        """The closest peers known here, but for who asks."""
        position = position_of(question.key)
        closest = [each for each in self._table.closest(position, CONTACTS_MAX + 1) if each.peer != sender]
        return KadMessage(question.kind, question.key, closer=tuple(closest[:CONTACTS_MAX]))

    def _put(self, met_at: Address | None, question: KadMessage, now: float, unix_s: float) -> KadMessage | Malformed:
        if question.value is None:
            return Malformed("a PUT_VALUE without a record")
        record = open_record(question.key, question.value, unix_s)
        if isinstance(record, Malformed):
            return record
        refusal = self._held.put(record, met_at, self._table.is_near(position_of(question.key)), now, unix_s)
        return refusal or KadMessage(MessageKind.PUT_VALUE, question.key, question.value)

    def _add_provider(
        self, sender: PeerId, met_at: Address | None, question: KadMessage, now: float
    ) -> KadMessage | Malformed:
        if not 0 < len(question.key) <= PROVIDER_KEY_BYTES_MAX:
            return Malformed(f"a provider key of {len(question.key)} bytes; 1 to {PROVIDER_KEY_BYTES_MAX} are allowed")
        own = next((provider for provider in question.providers if provider.peer == sender), None)
        if own is None or not own.addresses:
            return Malformed("an ADD_PROVIDER in which its sender does not name itself with an address")
        own = Contact(sender, worth_of(own.addresses, met_at))  # without any it still is a provider for its connections
        return self._providers.add(question.key, own, met_at, now) or KadMessage(question.kind, question.key)
