"""What the layers above see of the network: a small Protocol, implemented by `host` (libp2p) and `memory` (simulated).

Failures of the network and of peers are values (`Refusal`), never exceptions: whoever asks a peer must say what happens
when it does not answer. Exceptions that leave these calls are bugs, or trio.Cancelled. Only a plain `ByteStream` raises
one, `StreamBroken`: whoever speaks a protocol of others over it handles all its ways to end in one place.
"""

import enum
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, NewType, Protocol, TypeVar

import trio

from .wire import Message

if TYPE_CHECKING:
    from .blob_stream import OpenSource
    from .bulk_peer_service import Files
    from .bulk_serving_service import Pace

PeerId = NewType("PeerId", str)  # libp2p's base58 text of an Ed25519 public key: "12D3KooW..."
Address = NewType("Address", str)  # a multiaddr that ends in /p2p/<peer id>

Request = TypeVar("Request", bound=Message)
Reply = TypeVar("Reply", bound=Message)


class Code(enum.IntEnum):
    """Why a call failed. The numbers are on the wire."""

    UNKNOWN_METHOD = 1
    TOO_LARGE = 2
    MALFORMED = 3
    DEADLINE_EXCEEDED = 4
    CANCELLED = 5
    BUSY = 6  # a limit of the peer is reached: try again later
    REFUSED = 7  # the peer's application says no; the message says why
    NOT_FOUND = 8
    INTERNAL = 9  # a bug on the other side; the connection goes on
    NEEDS_NEWER = 10  # the other side speaks a newer version: "needs a newer Shoal"
    UNREACHABLE = 11  # never on the wire: no connection, or it broke


class Refusal(Message, frozen=True):
    """A call's failure, as a value."""

    code: Code
    message: str


class Why(enum.Enum):
    """What is wrong with an address at which a peer should be reached."""

    MALFORMED = "not an address to dial"
    NO_NAME = "the name is not known"
    NO_ROUTE = "no way leads there"
    REFUSED = "refused"
    TIMED_OUT = "timed out"
    MUTE = "somebody accepts, and says nothing"
    UNPROVEN = "somebody else answers"
    RELAY = "the relay does not help"
    NO_SEAT = "no room here"


class Undialed(Refusal, frozen=True):
    """Why an address did not lead to the peer that it names. It stays on this side."""

    address: Address
    why: Why

    @property
    def reason(self) -> str:
        """The message without the address."""
        return self.message.removeprefix(f"no connection to {self.address}: ")


@dataclass(frozen=True, slots=True)
class Missing:
    """A peer to which a connection is kept, and is not there."""

    peer: PeerId
    addresses: tuple[Address, ...]  # where it is dialed
    failures: tuple[Undialed, ...]  # the last of each address that was tried


@dataclass(frozen=True, slots=True)
class Unary(Generic[Request, Reply]):
    """A method with one request and one reply."""

    name: str  # "/shoal/blobs/1/manifest": protocol, version, method
    request_type: type[Request]
    reply_type: type[Reply]
    request_bytes_max: int = 65_536
    reply_bytes_max: int = 65_536


@dataclass(frozen=True, slots=True)
class Streaming(Generic[Request, Reply]):
    """A method with any number of messages in both directions; the bounds are per message."""

    name: str
    request_type: type[Request]
    reply_type: type[Reply]
    request_bytes_max: int = 65_536
    reply_bytes_max: int = 65_536


SendT = TypeVar("SendT", bound=Message, contravariant=True)
ReceiveT = TypeVar("ReceiveT", bound=Message, covariant=True)


class Call(Protocol[SendT, ReceiveT]):
    """One side of a streaming call."""

    async def send(self, message: SendT) -> Refusal | None:
        """Send, waiting for the peer's credits. A refusal means the call is over."""
        ...

    async def finish(self) -> None:
        """Say that nothing more will be sent from this side."""
        ...

    async def receive(self) -> ReceiveT | Refusal | None:
        """The next message; None after the other side's clean end; a refusal if the call failed."""
        ...


# A handler without an await (a plain function) is answered from the reader itself, without a task: it must be quick.
UnaryHandler = Callable[[PeerId, Request], Reply | Refusal] | Callable[[PeerId, Request], Awaitable[Reply | Refusal]]
StreamHandler = Callable[[PeerId, Call[Reply, Request]], Awaitable[Refusal | None]]


class StreamBroken(Exception):
    """The byte stream is gone: reset, or its connection with it. The message says what is known."""


class ByteStream(Protocol):
    """A plain stream of bytes, reliable and in order. One task may read and one may write at a time."""

    async def send_all(self, data: bytes) -> None:
        """Raises StreamBroken."""
        ...

    async def receive_some(self) -> bytes:
        """At least one byte; none at the end. Raises StreamBroken."""
        ...

    async def aclose(self) -> None:
        """Done with it. What was sent is still delivered; what still comes is thrown away."""
        ...


ProtocolHandler = Callable[[PeerId, ByteStream], Awaitable[None]]  # may raise StreamBroken


@dataclass(frozen=True, slots=True)
class Connection:
    """One connected peer, for people and for choosing holders."""

    peer: PeerId
    address: Address
    is_relayed: bool
    is_outbound: bool
    rtt_s: float | None
    bytes_sent: int
    bytes_received: int
    note: str = ""  # how it came to this, for people
    limit_bytes: int | None = None  # what its relay lets it carry in all
    bulk: str = ""  # how chunks of blobs come from it, for people
    bulk_bytes_per_s: float = 0.0  # when last some came


class Verdict(enum.Enum):
    """Whether others can dial a node, as far as is known."""

    UNKNOWN = "unknown"
    PUBLIC = "public"  # others reach the address that its machine has
    MAPPED = "mapped"  # others reach a router's address, and it passes on to the machine
    PRIVATE = "private"  # nobody gets through who was not dialed


@dataclass(frozen=True, slots=True)
class Reach:
    """A node's place in the network."""

    verdict: Verdict
    reason: str  # for people
    nat: str  # how its router translates addresses, in words
    outside: tuple[str, ...]  # IP addresses at which others see it
    port_mapping: str = "not asked for"  # what the router was asked for, and what it says
    is_port_mapped: bool = False
    relays: tuple["Place", ...] = ()  # where it wants to be reached through others


@dataclass(frozen=True, slots=True)
class Place:
    """A relay through which a node wants to be reached."""

    relay: PeerId
    is_held: bool
    reason: str  # for people


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of all connections since the start, as they leave and enter the encrypted connection."""

    bytes_sent: int
    bytes_received: int


@dataclass(frozen=True, slots=True)
class PeerConnected:
    peer: PeerId


@dataclass(frozen=True, slots=True)
class PeerDisconnected:
    peer: PeerId


PeerEvent = PeerConnected | PeerDisconnected


GOSSIP_BYTES_MAX = 65_536  # a message is held for others to fetch, and handed over in one piece

# Takes a message of gossip: the neighbour that handed it over, and its bytes. Says whether it is valid.
Hear = Callable[[PeerId, bytes], bool]


class Bulk(Protocol):
    """Connections for blobs alone."""

    def attach(self, files: "Files", pace: "Pace") -> "OpenSource":
        """Serve these from now on, and fetch into them: where chunks come from."""
        ...

    def prepare(self, peer: PeerId, size: int) -> None:
        """Have a connection with a peer of which a blob of so many bytes may soon be asked."""
        ...


class Transport(Protocol):
    """A running node's network. Obtained from `host.open_host` or `memory.Network.open`."""

    @property
    def peer_id(self) -> PeerId: ...

    def addresses(self) -> tuple[Address, ...]:
        """Where others can reach this node: public and private addresses first, loopback last."""
        ...

    def reach(self) -> Reach:
        """Whether others can dial this node."""
        ...

    def serve(self, method: Unary[Request, Reply], handler: UnaryHandler[Request, Reply]) -> None:
        """Answer `method` from now on. A second handler for a name replaces the first."""
        ...

    def serve_stream(self, method: Streaming[Request, Reply], handler: StreamHandler[Reply, Request]) -> None: ...

    def stop_serving(self, name: str) -> None: ...

    async def request(
        self, peer: PeerId, method: Unary[Request, Reply], request: Request, *, timeout_s: float
    ) -> Reply | Refusal:
        """Ask `peer`. The deadline travels with the call; when it passes, both sides let go."""
        ...

    def stream(
        self, peer: PeerId, method: Streaming[Request, Reply], *, timeout_s: float
    ) -> AbstractAsyncContextManager[Call[Request, Reply]]:
        """Open a streaming call; leaving the context cancels what is unfinished and frees the other side."""
        ...

    def serve_protocol(self, protocol: str, handler: ProtocolHandler) -> None:
        """Hand over each stream that a peer opens for `protocol`, one that is not Shoal's own (`/ipfs/kad/1.0.0`).

        It is closed when the handler returns. A peer may have Limits.streams_per_peer_max streams open here in all.
        A second handler replaces the first.
        """
        ...

    async def open_protocol(self, peer: PeerId, protocol: str, *, timeout_s: float) -> ByteStream | Refusal:
        """A stream that a connected peer's handler of `protocol` serves. Whoever gets it closes it."""
        ...

    def publish(self, topic: str, data: bytes) -> Refusal | None:
        """Gossip up to GOSSIP_BYTES_MAX bytes to all subscribers of `topic`, each of whom gets them once.

        Whose they are they have to say themselves. The same bytes again are no new message.
        """
        ...

    def heard(self, topic: str, data: bytes) -> None:
        """What others may gossip under `topic` has come another way: nobody need hand it over again."""
        ...

    def subscribe(self, topic: str, hear: Hear) -> AbstractContextManager[None]:
        """Hear what others publish, while the context lasts. Own messages do not come back.

        What `hear` finds invalid is not forwarded, and not looked at again. Raises ValueError for a topic that is too
        long, one too many or subscribed to already.
        """
        ...

    @property
    def bulk(self) -> "Bulk | None":
        """A faster way for blobs than streams, if there is one."""
        ...

    def connections(self) -> tuple[Connection, ...]:
        """Connected peers, sorted by peer id."""
        ...

    def traffic(self) -> Traffic: ...

    def events(self) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[PeerEvent]]:
        """What happens to connections from now on, after one PeerConnected for each that already stands."""
        ...

    async def connect(self, address: Address, *, timeout_s: float) -> PeerId | Refusal:
        """Dial one address, once. BUSY: there is no seat for it here, as all are kept, in use or taken just now.

        A connection that carries nothing and is not kept may be closed, by either side, when seats grow scarce.
        """
        ...

    def keep(self, peer: PeerId, addresses: tuple[Address, ...]) -> None:
        """Stay connected to `peer`: dial these addresses in turn, with backoff and jitter, until `release`."""
        ...

    def release(self, peer: PeerId) -> None: ...

    def missing(self) -> tuple[Missing, ...]:
        """Kept peers that are not connected, sorted by peer id."""
        ...

    async def probe(self, address: Address, *, timeout_s: float) -> Undialed | None:
        """Whether the peer that an address names answers there. What is connected stays as it is."""
        ...
