"""The body of a listing: the swarms that a peer lists in public, for `keys.listing_key`.

To list: announce at `keys.own_directory_key` and put this body under `listing_key`. To read the directory: find the
providers of each of `keys.DIRECTORY_KEYS`, and the listing of each provider.

What a malicious peer may list: anything, under its own id, up to LISTED_MAX swarms. Nothing in it is believed: a swarm
is its spec, which hashes to `swarm`, and text is shown as text.
"""

from typing import Annotated, Final

import msgspec

from shoal.transport.wire import Digest, Malformed, Message, decode, encode

from .records import BODY_BYTES_MAX

LISTED_MAX: Final = 8
NAME_CHARS_MAX: Final = 64
INVITE_CHARS_MAX: Final = 1024
_VERSION: Final = 1


class ListedSwarm(Message, frozen=True):
    swarm: Digest
    name: Annotated[str, msgspec.Meta(max_length=NAME_CHARS_MAX)]
    invite: Annotated[str, msgspec.Meta(max_length=INVITE_CHARS_MAX)]  # how to join


class Listing(Message, frozen=True):
    version: Annotated[int, msgspec.Meta(ge=_VERSION, le=_VERSION)]
    swarms: Annotated[tuple[ListedSwarm, ...], msgspec.Meta(max_length=LISTED_MAX)]


def listing_body(swarms: tuple[ListedSwarm, ...]) -> bytes:
    """The body that lists these swarms."""
    return encode(Listing(_VERSION, swarms))


def open_listing(body: bytes) -> tuple[ListedSwarm, ...] | Malformed:
    """The swarms that a body lists."""
    listing = decode(body, Listing, BODY_BYTES_MAX)
    return listing if isinstance(listing, Malformed) else listing.swarms
