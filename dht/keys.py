"""Where things are in the DHT: the keys of records and of providers, and the distance between keys and peers.

A *record key* is text, `/shoal/<kind>/[<subject>/]<peer id>`, and the peer at its end is the only one who may write
there. So whether a record may stand under its key needs no state, and nobody can take another's place: what cannot be
forged need not be voted on. A *provider key* is a multihash, as libp2p's other implementations want it; any peer may
say of itself, and of nobody else, that it provides there.

The public directory is one provider key per shard. The shard of an announcer follows from its id, so a peer has one
place in it, at one shard; the swarms it lists stand in its own record under `listing_key`. A peer that wants more
places needs more ids, and then meets the bounds per address range of whoever holds the shard (`providers`).

Nodes that relay announce themselves likewise, at keys of their own.

What a malicious peer may send: any bytes as a key. What it achieves: one Malformed. Distances are those of SHA-256, as
everywhere in libp2p: it may choose ids close to a key by trying (that is what disjoint paths and ranges are against).
"""

import enum
import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from blake3 import blake3

from shoal.transport.identity import public_key_of
from shoal.transport.multiaddrs import peer_bytes
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed

POSITION_BITS: Final = 256
KEY_BYTES_MAX: Final = 128  # as go-libp2p and py-libp2p
PROVIDER_KEY_BYTES_MAX: Final = 80  # likewise
DIRECTORY_SHARDS: Final = 16  # more: more lookups to read it all; fewer: fewer nodes carry it
SUBJECT_CHARS_MAX: Final = 48
POSITIONS_REMEMBERED: Final = 16_384  # memory: about 0.3 KB each
BLAKE3_MULTIHASH: Final = b"\x1e\x20"  # function and length; the digest follows
_SUBJECT: Final = re.compile(rf"[a-z0-9._-]{{1,{SUBJECT_CHARS_MAX}}}")


class KeyKind(enum.Enum):
    """What a record tells. The values are on the wire."""

    LISTING = "listing"  # the swarms a peer lists in public
    NOTE = "note"  # anything under a name of the writer's: for people who debug, and for measuring


_HAS_SUBJECT: Final = {KeyKind.LISTING: False, KeyKind.NOTE: True}


@dataclass(frozen=True, slots=True)
class RecordKey:
    """A sound key. Obtained from `parse_key` or the functions below."""

    kind: KeyKind
    subject: str  # empty for kinds without one
    writer: PeerId

    @property
    def data(self) -> bytes:
        """The key as it travels."""
        middle = f"{self.subject}/" if self.subject else ""
        return f"/shoal/{self.kind.value}/{middle}{self.writer}".encode("ascii")


def parse_key(data: bytes) -> RecordKey | Malformed:
    """The record key that these bytes are, or why nothing may stand there."""
    if len(data) > KEY_BYTES_MAX or not data.isascii():
        return Malformed(f"a key of {len(data)} bytes that is not up to {KEY_BYTES_MAX} of ASCII")
    text = data.decode("ascii")
    parts = text.split("/")
    kinds = [kind for kind in KeyKind if len(parts) > 2 and parts[2] == kind.value]
    if parts[:2] != ["", "shoal"] or not kinds:
        return Malformed(f"expected a key like /shoal/listing/12D3KooW..., got {text!r}")
    has_subject = _HAS_SUBJECT[kinds[0]]
    if len(parts) != 4 + has_subject:
        return Malformed(f"{text!r} has {len(parts) - 1} parts; its kind has {3 + has_subject}")
    if has_subject and _SUBJECT.fullmatch(parts[3]) is None:
        return Malformed(f"{parts[3]!r} in {text!r}: a subject is 1 to {SUBJECT_CHARS_MAX} of a-z 0-9 . _ -")
    if public_key_of(parts[-1]) is None:
        return Malformed(f"{text!r} does not end in the id of an Ed25519 key, its writer")
    return RecordKey(kinds[0], parts[3] if has_subject else "", PeerId(parts[-1]))


def listing_key(peer: PeerId) -> RecordKey:
    """Where `peer` names the swarms that it lists in public."""
    return RecordKey(KeyKind.LISTING, "", peer)


def note_key(name: str, peer: PeerId) -> RecordKey | Malformed:
    """Where `peer` keeps what it calls `name`."""
    return parse_key(f"/shoal/note/{name}/{peer}".encode(errors="replace"))


def blob_providers_key(digest: bytes) -> bytes:
    """Where the holders of the blob with this digest announce themselves: who holds the key cannot fetch the blob."""
    return BLAKE3_MULTIHASH + blake3(b"shoal/dht/blob/1" + digest).digest()


def swarm_providers_key(swarm: bytes) -> bytes:
    """Where the members of the swarm with this id announce themselves."""
    return BLAKE3_MULTIHASH + blake3(b"shoal/dht/swarm/1" + swarm).digest()


def directory_key(shard: int) -> bytes:
    """Where the peers that list swarms in public and whose shard this is announce themselves."""
    return BLAKE3_MULTIHASH + blake3(b"shoal/dht/directory/1" + bytes([shard])).digest()


def relay_key(shard: int) -> bytes:
    """Where the peers that relay and whose shard this is announce themselves."""
    return BLAKE3_MULTIHASH + blake3(b"shoal/dht/relay/1" + bytes([shard])).digest()


DIRECTORY_KEYS: Final = tuple(directory_key(shard) for shard in range(DIRECTORY_SHARDS))
RELAY_KEYS: Final = tuple(relay_key(shard) for shard in range(DIRECTORY_SHARDS))
_SHARED_KEYS: Final = frozenset((*DIRECTORY_KEYS, *RELAY_KEYS))


def own_directory_key(peer: PeerId) -> bytes:
    """The one key of the directory at which `peer` may announce itself."""
    return DIRECTORY_KEYS[position_of_peer(peer) % DIRECTORY_SHARDS]


def own_relay_key(peer: PeerId) -> bytes:
    """The one key at which `peer` may announce itself as a relay."""
    return RELAY_KEYS[position_of_peer(peer) % DIRECTORY_SHARDS]


def may_provide(peer: PeerId, key: bytes) -> bool:
    """Whether `peer` may announce itself at this key: anywhere, but for the other shards of directory and relays."""
    return key not in _SHARED_KEYS or key in (own_directory_key(peer), own_relay_key(peer))


def position_of(key: bytes) -> int:
    """Where a key lies; `^` of two positions is their distance. For a peer as the target, use `peer_bytes` of it."""
    return int.from_bytes(hashlib.sha256(key).digest(), "big")


@lru_cache(maxsize=POSITIONS_REMEMBERED)
def position_of_peer(peer: PeerId) -> int:
    """Where a peer lies."""
    return position_of(peer_bytes(peer))


def shared_bits(one: int, other: int) -> int:
    """How many leading bits two positions share: the number of the bucket of the one at the other."""
    return POSITION_BITS - (one ^ other).bit_length()
