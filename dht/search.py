"""What a lookup is after: the closest peers, the newest record under a key, or who provides there.

A `Search` is a `Lookup` with its question: it hands out the messages to send, reads the answers, and knows when it has
enough. A search for a record ends when a quorum of holders showed one (the newest of these counts), when some did and
the rest keeps silent, or when the lookup is over; those that showed an older one, and the closest peer that had none,
are then due a copy (`corrections`).

What a malicious peer may answer: a record that is not valid (the same as none), an old one (outvoted by any newer one
in the quorum), providers that are none (claims; whoever dials them proves who they are).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from shoal.transport.port import PeerId
from shoal.transport.wire import encode

from .contacts import Contact
from .keys import position_of
from .lookup import Lookup, LookupSettings
from .messages import KadMessage, MessageKind
from .patience import Patience
from .records import Record, open_record

PROVIDERS_FOUND_MAX: Final = 1024  # of one search
QUORUM: Final = 3  # holders heard before a record counts as the newest; 1 is quickest and believes the first


@dataclass(frozen=True, slots=True)
class Ask:
    """Send `message` to this peer, dialed as `RoutingTable.known` has it; tell `answered` or `failed`."""

    contact: Contact
    message: KadMessage


@dataclass(frozen=True, slots=True)
class Goal:
    """What to search.

    Attributes:
        kind: FIND_NODE for the closest peers, GET_VALUE for a record, GET_PROVIDERS for providers.
        key: as it travels; for a peer, `peer_bytes` of it.
        enough: records of which the newest is taken, or providers; 0: all that the lookup finds.
    """

    kind: MessageKind
    key: bytes
    enough: int = 0


class Search:
    """One search.

    Args:
        start: the closest peers known (`RoutingTable.closest`).
        sender_record: `peer_records.seal_addresses` of this node, to travel with each question.
    """

    def __init__(
        self, goal: Goal, self_id: PeerId, start: Iterable[Contact], settings: LookupSettings, patience: Patience,
        sender_record: bytes = b"",
    ) -> None:  # fmt: skip
        self._goal = goal
        self._lookup = Lookup(position_of(goal.key), self_id, start, settings, patience)
        self._question = KadMessage(goal.kind, goal.key, sender_record=sender_record)
        self._contacts: dict[PeerId, Contact] = {}  # asked
        self._shown: dict[PeerId, Record] = {}
        self._providers: dict[PeerId, Contact] = {}

    def begin(self, now: float) -> list[Ask]:
        return self._asks(self._lookup.begin(now))

    def answered(self, peer: PeerId, message: KadMessage, now: float, unix_s: float) -> list[Ask]:
        """What a peer answered. An answer to something else is the same as a failure.

        Args:
            now: a clock that only goes forward.
            unix_s: for the expiry of records.
        """
        # go-libp2p and py-libp2p repeat the key in some answers and not in others.
        if (
            peer not in self._contacts
            or message.kind is not self._goal.kind
            or message.key not in (b"", self._goal.key)
        ):
            return self.failed(peer, now)
        if self._goal.kind is MessageKind.GET_VALUE and message.value is not None:
            record = open_record(self._goal.key, message.value, unix_s)
            if isinstance(record, Record):
                self._shown[peer] = record
        for provider in message.providers if self._goal.kind is MessageKind.GET_PROVIDERS else ():
            if len(self._providers) < PROVIDERS_FOUND_MAX:
                self._providers.setdefault(provider.peer, provider)
        return self._asks(self._lookup.answered(peer, message.closer, now))

    def failed(self, peer: PeerId, now: float) -> list[Ask]:
        return self._asks(self._lookup.failed(peer, now))

    def woken(self, now: float) -> list[Ask]:
        return self._asks(self._lookup.woken(now))

    @property
    def deadline(self) -> float:
        return self._lookup.deadline

    @property
    def is_over(self) -> bool:
        return self._lookup.is_over

    def asked(self, peer: PeerId) -> Contact | None:
        """A peer that others named, whether it answered or not; None: nobody did."""
        return self._contacts.get(peer)

    @property
    def closest(self) -> tuple[Contact, ...]:
        """As `Lookup.closest`: where to put what belongs here."""
        return self._lookup.closest

    @property
    def silent(self) -> tuple[PeerId, ...]:
        """As `Lookup.silent`."""
        return self._lookup.silent

    @property
    def asked_count(self) -> int:
        return self._lookup.asked_count

    @property
    def hop_count(self) -> int:
        return self._lookup.hop_count

    @property
    def record(self) -> Record | None:
        """The newest valid record seen."""
        return max(self._shown.values(), key=lambda record: record.rank, default=None)

    @property
    def providers(self) -> tuple[Contact, ...]:
        """Who provides, in the order heard of."""
        return tuple(self._providers.values())

    def corrections(self) -> list[Ask]:
        """PUT_VALUEs of the newest record to those who showed an older one and to the closest peer that had none."""
        newest = self.record
        if newest is None:
            return []
        outdated = [self._contacts[peer] for peer, record in self._shown.items() if record != newest]
        without = [contact for contact in self.closest if contact.peer not in self._shown]
        return put([*outdated, *without[:1]], newest, self._question.sender_record)

    def _asks(self, contacts: list[Contact]) -> list[Ask]:
        found_count = max(len(self._shown), len(self._providers))
        if found_count and (self._lookup.is_stalled or 0 < self._goal.enough <= found_count):
            self._lookup.stop()
            return []
        self._contacts.update((contact.peer, contact) for contact in contacts)
        return [Ask(contact, self._question) for contact in contacts]


def put(contacts: Iterable[Contact], record: Record, sender_record: bytes = b"") -> list[Ask]:
    """Store a record at these peers, `Search.closest` of its key."""
    message = KadMessage(MessageKind.PUT_VALUE, record.key, encode(record), sender_record=sender_record)
    return [Ask(contact, message) for contact in contacts]


def announce(contacts: Iterable[Contact], key: bytes, provider: Contact, sender_record: bytes = b"") -> list[Ask]:
    """Say at these peers, `Search.closest` of the key, that `provider`, this node, provides there."""
    message = KadMessage(MessageKind.ADD_PROVIDER, key, providers=(provider,), sender_record=sender_record)
    return [Ask(contact, message) for contact in contacts]


def is_taken(ask: Ask, answer: KadMessage) -> bool:
    """Whether a peer's answer says that it keeps what `put` or `announce` asked it to."""
    return answer.kind is ask.message.kind and answer.key == ask.message.key
