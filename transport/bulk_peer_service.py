"""What the bulk plane knows of one peer, and what it needs of those whose chunks it carries."""

import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

import trio

from .blob_file import Buffer
from .bulk_growth import Growth
from .bulk_link_service import Link
from .bulk_pool_service import Pool
from .port import Refusal
from .tcp_service import Counter
from .token_bucket import TokenBucket

MEETINGS_PER_S: Final = 0.2  # with one peer; each makes contexts, 5 ms
MEETINGS_BURST: Final = 4


@dataclass(slots=True, eq=False)
class Peer:
    """One peer, from when it was met until its last connection of libp2p's is gone."""

    pool: Pool
    growth: Growth = field(default_factory=Growth)
    meetings: TokenBucket = field(default_factory=lambda: TokenBucket(MEETINGS_PER_S, MEETINGS_BURST))
    certificate: bytes = b""  # its own; empty: not met
    dialing: ssl.SSLContext | None = None
    own_token: str = ""  # which it shows
    their_token: str = ""  # which is shown to it; empty: it was not asked for one
    links: list[Link] = field(default_factory=list[Link])  # all that stand
    serving: list[Link] = field(default_factory=list[Link])  # of them
    carried: Counter = field(default_factory=Counter)  # by those that are gone
    sources: int = 0  # that are open, of blobs for which connections are worth their while
    awaited: int = 0  # connections on which it was asked to serve
    promised: int = 0  # connections on which this side is about to serve
    opening: trio.Event | None = None  # while a connection is on its way
    failures: int = 0
    again_at: float = 0.0
    note: str = ""  # why there are none
    seen_bytes: int = 0
    rate: float = 0.0  # bytes/s, when last something came


class Files(Protocol):
    """Where chunks come from and go to. Called by threads."""

    def write_chunk(self, digest: bytes, index: int, pieces: Iterable[Buffer]) -> bool | Refusal:
        """Whether it was what it should be, and is there now."""
        ...

    def read_chunk_into(self, digest: bytes, index: int, buffer: memoryview) -> int | None:
        """Its length; None: it is not here. Raises OSError."""
        ...
