"""Puts questions to peers: dials them, keeps a few streams to each, and bounds all of it.

A question on a warm stream costs one round trip; a new stream costs two more, a new connection five. So streams stay
open while their connections stand. A stream whose answer did not come is closed: the next answer on it would be taken
for that of the next question.

What a malicious peer may do: answer anything, late or never, and name addresses where nobody is. What it achieves: one
question of ours fails after ASK_S_MAX; all that is told makes at most DIALS_PER_S dials a second, and for a DNS name
only to where it is public (`names_service`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from shoal.transport.port import Address, ByteStream, Code, PeerId, Refusal, StreamBroken, Transport
from shoal.transport.token_bucket import TokenBucket
from shoal.transport.wire import Malformed

from .contacts import Contact
from .messages import PROTOCOL, KadMessage, decode_length, decode_message, encode_message
from .names_service import Names

ASK_S_MAX: Final = 5.0  # for one question, dialing included
DIAL_S_MAX: Final = 2.0  # one address
DIALS_AT_ONCE_MAX: Final = 16  # sockets, and handshakes of 3 ms of CPU each
DIALS_PER_S: Final = 32.0
DIALS_BURST: Final = 256  # a node that joins dials its whole neighbourhood
STREAMS_PER_PEER_MAX: Final = 4  # questions under way at one peer; more wait


class Messages:
    """A stream as the messages on it."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream, self._data = stream, b""

    async def receive(self) -> KadMessage | Malformed | None:
        """The next one; None at the end. Raises StreamBroken."""
        while True:
            head = decode_length(self._data)
            if isinstance(head, Malformed):
                return head
            if head is not None and len(self._data) >= sum(head):
                length, start = head
                body, self._data = self._data[start : start + length], self._data[start + length :]
                return decode_message(body)
            data = await self._stream.receive_some()
            if not data:
                return None
            self._data += data

    async def send(self, message: KadMessage) -> None:
        """Raises StreamBroken."""
        await self._stream.send_all(encode_message(message))

    async def aclose(self) -> None:
        await self._stream.aclose()


@dataclass(slots=True)
class _Peer:
    """What is open to a peer."""

    idle: list[Messages] = field(default_factory=list[Messages])
    places: trio.Semaphore = field(default_factory=lambda: trio.Semaphore(STREAMS_PER_PEER_MAX))


class Asking:
    """Args:
    transport: whose peers are asked.
    met_at: the address of the connection with a peer; None if there is no connection.
    """

    def __init__(self, transport: Transport, met_at: Callable[[PeerId], Address | None]) -> None:
        self._transport, self._met_at = transport, met_at
        self._peers: dict[PeerId, _Peer] = {}
        self._dialing: dict[PeerId, trio.Event] = {}
        self._budget = TokenBucket(DIALS_PER_S, DIALS_BURST)
        self._names = Names()
        self._dials = trio.CapacityLimiter(DIALS_AT_ONCE_MAX)

    async def ask(self, contact: Contact, question: KadMessage, *, is_given: bool = False) -> KadMessage | Refusal:
        """The answer, or why there is none.

        Args:
            is_given: by the owner of this node, who may name what strangers may not.
        """
        with trio.move_on_after(ASK_S_MAX):
            refused = await self.reach(contact, is_given=is_given)
            if refused is not None:
                return refused
            peer = self._peers.setdefault(contact.peer, _Peer())
            async with peer.places:
                return await self._exchange(peer, contact.peer, question)
        return Refusal(Code.DEADLINE_EXCEEDED, f"{contact.peer} does not answer within {ASK_S_MAX:g} s")

    def gone(self, peer: PeerId) -> None:
        """The last connection to a peer is gone, and its streams with it."""
        self._peers.pop(peer, None)

    async def _exchange(self, peer: _Peer, peer_id: PeerId, question: KadMessage) -> KadMessage | Refusal:
        while peer.idle:  # the other side may have closed some meanwhile
            answer = await self._ask_on(peer, peer.idle.pop(), question)
            if answer is not None:
                return answer
        stream = await self._transport.open_protocol(peer_id, PROTOCOL, timeout_s=ASK_S_MAX)
        if isinstance(stream, Refusal):
            return stream
        answer = await self._ask_on(peer, Messages(stream), question)
        return answer or Refusal(Code.UNREACHABLE, f"{peer_id} ended the stream instead of answering")

    async def _ask_on(self, peer: _Peer, messages: Messages, question: KadMessage) -> KadMessage | Refusal | None:
        """None: the stream is gone."""
        is_sound = False
        try:
            await messages.send(question)
            answer = await messages.receive()
            if isinstance(answer, Malformed):
                return Refusal(Code.MALFORMED, answer.reason)
            is_sound = answer is not None
            return answer
        except StreamBroken:
            return None
        finally:
            if is_sound:
                peer.idle.append(messages)
            else:
                await messages.aclose()

    async def reach(self, contact: Contact, *, is_given: bool = False) -> Refusal | None:
        """Be connected. Who is being dialed already is not dialed again. BUSY: this node has no room, and cannot tell
        whether the peer is there.
        """
        if contact.peer in self._dialing:
            await self._dialing[contact.peer].wait()
        elif self._met_at(contact.peer) is None:
            return await self._dial(contact, is_given)
        return None if self._met_at(contact.peer) is not None else _nowhere(contact)

    async def _dial(self, contact: Contact, is_given: bool) -> Refusal | None:
        done = self._dialing[contact.peer] = trio.Event()
        try:
            for address in contact.addresses:
                async with self._dials:
                    answer = await self._dial_one(contact, address, is_given)
                if answer is None or answer.code is Code.BUSY:
                    return answer
            return _nowhere(contact)
        finally:
            del self._dialing[contact.peer]
            done.set()

    async def _dial_one(self, contact: Contact, address: Address, is_given: bool) -> Refusal | None:
        if not self._budget.take(trio.current_time()):  # also for looking a name up
            return Refusal(Code.BUSY, "this node dials as many as it may")
        places: tuple[Address, ...] = (address,) if is_given else ()
        with trio.move_on_after(DIAL_S_MAX):
            places = places or await self._names.places(address)
        for number, place in enumerate(places):
            if number and not self._budget.take(trio.current_time()):
                break
            answer = await self._transport.connect(place, timeout_s=DIAL_S_MAX)
            if answer == contact.peer:
                return None
            if isinstance(answer, Refusal) and answer.code is Code.BUSY:
                return answer
        return _nowhere(contact)


def _nowhere(contact: Contact) -> Refusal:
    return Refusal(Code.UNREACHABLE, f"{contact.peer} is at none of its {len(contact.addresses)} addresses")
