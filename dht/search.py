"""What a lookup is after: the closest peers, the newest record under a key, or who provides there.

A `Search` is a `Lookup` with its question: it hands out the messages to send, reads the answers, and knows when it has
enough. A search for a record ends when `quorum` holders showed one (the newest of these counts) or when the lookup is
over; those that showed an older one, and the closest peer that had none, are then due a copy (`corrections`).

What a malicious peer may answer: a record that is not valid (the same as none), an old one (outvoted by any newer one
in the quorum), providers that are none (claims; whoever dials them proves who they are).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from shoal.transport.port import PeerId

from .contacts import Contact
from .lookup import LookupSettings
from .messages import KadMessage, MessageKind
from .patience import Patience
from .records import Record

QUORUM: Final = 3  # holders heard before a record counts as the newest; 1 is quickest and believes the first


@dataclass(frozen=True, slots=True)
class Ask:
    """Send `message` to this peer; tell `answered` or `failed`."""

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
        raise NotImplementedError

    def begin(self, now: float) -> list[Ask]:
        raise NotImplementedError

    def answered(self, peer: PeerId, message: KadMessage, now: float, unix_s: float) -> list[Ask]:
        """What a peer answered. An answer of another kind or for another key is the same as a failure.

        Args:
            now: a clock that only goes forward.
            unix_s: for the expiry of records.
        """
        raise NotImplementedError

    def failed(self, peer: PeerId, now: float) -> list[Ask]:
        raise NotImplementedError

    def woken(self, now: float) -> list[Ask]:
        raise NotImplementedError

    @property
    def deadline(self) -> float:
        raise NotImplementedError

    @property
    def is_over(self) -> bool:
        raise NotImplementedError

    @property
    def closest(self) -> tuple[Contact, ...]:
        """As `Lookup.closest`: where to put what belongs here."""
        raise NotImplementedError

    @property
    def silent(self) -> tuple[PeerId, ...]:
        """As `Lookup.silent`."""
        raise NotImplementedError

    @property
    def record(self) -> Record | None:
        """The newest valid record seen."""
        raise NotImplementedError

    @property
    def providers(self) -> tuple[Contact, ...]:
        """Who provides, in the order heard of."""
        raise NotImplementedError

    def corrections(self) -> list[Ask]:
        """PUT_VALUEs of the newest record to those who showed an older one and to the closest peer that had none."""
        raise NotImplementedError


def put(contacts: Iterable[Contact], record: Record, sender_record: bytes = b"") -> list[Ask]:
    """Store a record at these peers, `Search.closest` of its key."""
    raise NotImplementedError


def announce(contacts: Iterable[Contact], key: bytes, provider: Contact, sender_record: bytes = b"") -> list[Ask]:
    """Say at these peers, `Search.closest` of the key, that `provider`, this node, provides there."""
    raise NotImplementedError
