"""Who announced to this node that it provides at a key.

An announcement lives for PROVIDER_S and is renewed by its provider after 12 to 22 hours (`renewal`). Answers name at
most PROVIDERS_MAX of a key's providers, in an order that differs from holder to holder: who asks several holders sees
more of a long list than any one of them tells.

What a malicious peer may do: announce itself, truly or not. What it cannot do: announce others (the sender is the
provider), take more than PER_PROVIDER_MAX keys with one id, or more than NARROW_PER_KEY_MAX and WIDE_PER_KEY_MAX places
at one key from one range of addresses. When a key is full the newcomer takes a place of the range that has most: one
range cannot crowd out the others. In the directory each id has one shard (`keys.may_provide`).
"""

from typing import Final

from shoal.transport.port import Address
from shoal.transport.wire import Malformed

from .contacts import Contact

PROVIDER_S: Final = 36 * 3600.0
ENTRIES_MAX: Final = 65_536
PER_KEY_MAX: Final = 256
PER_PROVIDER_MAX: Final = 4096
NARROW_PER_KEY_MAX: Final = 8
WIDE_PER_KEY_MAX: Final = 32


class Providers:
    """Args:
    seed: of the order of answers; differs from node to node.
    """

    def __init__(self, seed: int) -> None:
        raise NotImplementedError

    def add(self, key: bytes, provider: Contact, sent_from: Address | None, now: float) -> Malformed | None:
        """Keep an announcement of `provider`, who sent it. Malformed: why it is refused."""
        raise NotImplementedError

    def get(self, key: bytes, now: float) -> tuple[Contact, ...]:
        """At most PROVIDERS_MAX of those who provide at a key."""
        raise NotImplementedError

    @property
    def deadline(self) -> float:
        raise NotImplementedError

    def expire(self, now: float) -> None:
        """Forget what has expired; call at `deadline`."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError
