"""Where on this machine a testnet's node runs: on loopback, or in a network namespace of its own."""

from collections.abc import Sequence
from dataclasses import dataclass

PORT = 4011  # where a node has an address of its own


@dataclass(frozen=True, slots=True)
class Place:
    """One node's.

    Attributes:
        prefix: what to put before its command.
        listen: its address.
    """

    prefix: Sequence[str]
    listen: str


LOOPBACK = Place((), "/ip4/127.0.0.1/tcp/0")
