"""Signed envelopes: how a message says whose it is, and for which one place in the protocol it was meant.

A *stored* envelope is kept and passed on, so anybody may present it at any time: it is bound to domain, swarm, round
and sequence, and whoever stores it knows whether that place is taken. A *direct* envelope is for one recipient, now: it
is bound to domain, recipient and the recipient's session, 16 random bytes of each start of the process, and within a
session every sequence number counts once. No clock is read: a wrong clock can neither lock a peer out nor let a replay
in.

A peer may send any bytes. It cannot make another's envelope out of them, nor move one to another domain, swarm, round,
recipient or session (all of these are under the signature, and those the reader knows are not even carried), nor have a
direct one accepted twice. A sender who skips far ahead in sequence loses its own earlier messages and nobody else's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final, Protocol

import msgspec

from .identity import SIGNATURE_BYTES, verify
from .port import PeerId
from .wire import U64, Malformed, Message, PeerIdText, decode, encode

SWARM_BYTES: Final = 32
SESSION_BYTES: Final = 16
ENVELOPE_OVERHEAD_BYTES: Final = 192  # at most so much longer than its body

WINDOW_SEQUENCES: Final = 1024  # memory: 128 bytes per sender and domain; smaller: late messages are lost to reordering
WINDOW_SENDERS_MAX: Final = 4096  # pairs of sender and domain; memory: about 0.5 KB each

_STORED_TAG: Final = "shoal/stored/1"
_DIRECT_TAG: Final = "shoal/direct/1"

Signature = Annotated[bytes, msgspec.Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]
Verify = Callable[[PeerId, bytes, bytes], bool]


class Signer(Protocol):
    """Whose key signs: `identity.Identity`."""

    @property
    def peer_id(self) -> PeerId: ...

    def sign(self, message: bytes) -> bytes:
        """64 bytes of Ed25519."""
        ...


class _Stored(Message, frozen=True):
    signer: PeerIdText
    round: U64
    sequence: U64
    body: bytes
    signature: Signature


class _Direct(Message, frozen=True):
    signer: PeerIdText
    sequence: U64
    body: bytes
    signature: Signature


@dataclass(frozen=True, slots=True)
class StoredEnvelope:
    """What a stored envelope says; its signature has been verified."""

    signer: PeerId
    round: int
    sequence: int
    body: bytes


@dataclass(frozen=True, slots=True)
class DirectEnvelope:
    """What a direct envelope says; its signature has been verified, and it came for the first time."""

    signer: PeerId
    sequence: int
    body: bytes


def _stored_statement(domain: str, swarm: bytes, round: int, sequence: int, body: bytes) -> bytes:
    return encode((_STORED_TAG, domain, swarm, round, sequence, body))


def _direct_statement(domain: str, recipient: PeerId, session: bytes, sequence: int, body: bytes) -> bytes:
    return encode((_DIRECT_TAG, domain, recipient, session, sequence, body))


def _check_length(name: str, value: bytes, length: int) -> None:
    if len(value) != length:
        raise ValueError(f"{name} has {length} bytes, not {len(value)}")


def seal_stored(signer: Signer, domain: str, swarm: bytes, round: int, sequence: int, body: bytes) -> bytes:
    """`body`, signed for one place in a swarm: `swarm` is its 32-byte id. Raises ValueError for another length."""
    _check_length("a swarm's id", swarm, SWARM_BYTES)
    signature = signer.sign(_stored_statement(domain, swarm, round, sequence, body))
    return encode(_Stored(signer.peer_id, round, sequence, body, signature))


def open_stored(
    data: bytes, domain: str, swarm: bytes, bytes_max: int, verify: Verify = verify
) -> StoredEnvelope | Malformed:
    """The envelope in `data`, if its signer sealed it for this domain and swarm.

    `bytes_max` bounds `data`. `verify` may be a replacement that remembers results (simulations share them).
    """
    envelope = decode(data, _Stored, bytes_max)
    if isinstance(envelope, Malformed):
        return envelope
    signer = PeerId(envelope.signer)
    statement = _stored_statement(domain, swarm, envelope.round, envelope.sequence, envelope.body)
    if encode(envelope) != data:
        return Malformed("an envelope that is not written in its shortest form")
    if not verify(signer, statement, envelope.signature):
        return Malformed(f"not signed by {signer} for {domain} of this swarm")
    return StoredEnvelope(signer, envelope.round, envelope.sequence, envelope.body)


def seal_direct(signer: Signer, domain: str, recipient: PeerId, session: bytes, sequence: int, body: bytes) -> bytes:
    """`body`, signed for `recipient` in its 16-byte `session`. `sequence` counts up per recipient, session and domain.

    Raises ValueError for a session of another length.
    """
    _check_length("a session's id", session, SESSION_BYTES)
    signature = signer.sign(_direct_statement(domain, recipient, session, sequence, body))
    return encode(_Direct(signer.peer_id, sequence, body, signature))


def open_direct(
    data: bytes,
    domain: str,
    recipient: PeerId,
    session: bytes,
    window: "ReplayWindow",
    bytes_max: int,
) -> DirectEnvelope | Malformed:
    """The envelope in `data`, if it was sealed for this recipient and session and comes for the first time."""
    envelope = decode(data, _Direct, bytes_max)
    if isinstance(envelope, Malformed):
        return envelope
    signer = PeerId(envelope.signer)
    refusal = window.refusal(signer, domain, envelope.sequence)  # before the signature: a replay costs no verification
    if refusal is not None:
        return refusal
    statement = _direct_statement(domain, recipient, session, envelope.sequence, envelope.body)
    if not verify(signer, statement, envelope.signature):
        return Malformed(f"not signed by {signer} for {domain} of this recipient's session")
    window.mark(signer, domain, envelope.sequence)
    return DirectEnvelope(signer, envelope.sequence, envelope.body)


class ReplayWindow:
    """Which sequence numbers have come, per sender and domain, in any order within WINDOW_SEQUENCES of the highest.

    Nothing is forgotten during a session, since what is forgotten can be replayed: when the table is full, new senders
    are refused. So let only those seal to you whom you have admitted; strangers would fill the table.
    """

    def __init__(self, senders_max: int = WINDOW_SENDERS_MAX) -> None:
        self._senders_max = senders_max
        self._seen: dict[tuple[PeerId, str], tuple[int, int]] = {}  # highest sequence; bit i: highest - i has come

    def refusal(self, sender: PeerId, domain: str, sequence: int) -> Malformed | None:
        """Why `sequence` cannot be accepted; None: it can."""
        seen = self._seen.get((sender, domain))
        if seen is None:
            full = len(self._seen) >= self._senders_max
            return Malformed(f"more than {self._senders_max} senders in this session") if full else None
        highest, bits = seen
        age = highest - sequence
        if age >= WINDOW_SEQUENCES:
            return Malformed(f"sequence {sequence} is too old: {highest} has come")
        if age >= 0 and bits >> age & 1:
            return Malformed(f"sequence {sequence} has come before")
        return None

    def mark(self, sender: PeerId, domain: str, sequence: int) -> None:
        """Remember that `sequence` has come; only for what `refusal` let through and whose signature holds."""
        highest, bits = self._seen.get((sender, domain), (sequence, 0))
        if sequence > highest:
            ahead = sequence - highest
            bits = bits << ahead if ahead < WINDOW_SEQUENCES else 0  # never a shift of 2**63 bits
            highest = sequence
        bits |= 1 << (highest - sequence)
        self._seen[sender, domain] = (highest, bits & ((1 << WINDOW_SEQUENCES) - 1))
