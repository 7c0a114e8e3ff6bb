"""Content-addressed blobs: their names, the manifest a name commits to, and the messages that move them.

A blob is cut into chunks of 1 MiB. Its manifest lists the BLAKE3 hashes of the chunks; its name is the hash of the
manifest. So every chunk can be verified alone, whoever it comes from, before any of it is believed. A peer may send
any bytes here. What does not hash to the name asked for is a `Malformed`; sizes are bounded before anything is
allocated for them.
"""

import base64
import binascii
from typing import Annotated, Final

import msgspec
from blake3 import blake3

from .port import Streaming, Unary
from .wire import U64, Digest, Malformed, Message, decode, encode

MANIFEST_VERSION: Final = 1
CHUNK_BYTES: Final = (
    2**20
)  # smaller: longer manifests and more bookkeeping; larger: more lost with a liar, coarser sharing
HASH_BYTES: Final = 32
BLOB_BYTES_MAX: Final = 2**36  # 64 GiB: its manifest is 2 MiB, and still one message
CHUNKS_MAX: Final = BLOB_BYTES_MAX // CHUNK_BYTES
MANIFEST_BYTES_MAX: Final = CHUNKS_MAX * HASH_BYTES + 32
BITMAP_BYTES_MAX: Final = CHUNKS_MAX // 8
PIECE_BYTES: Final = 61_681  # a 17th of a chunk, rounded up: framed, one write below 65,000 bytes
RUN_CHUNKS_MAX: Final = 64  # asked for in one request
HAVES_MAX: Final = 64  # blobs in one question

# CIDv1: version, codec, multihash (function, length, digest). The codec is from the range that multicodec keeps for
# private use (0x300000-0x3FFFFF), "SH": what the digest covers is a manifest of ours. "raw" would promise that the
# digest is the hash of the blob's own bytes, and a tool that believes it would call every blob of ours corrupt.
_CODEC: Final = 0x305348
_CODEC_VARINT: Final = bytes(
    [0x80 | _CODEC & 0x7F, 0x80 | _CODEC >> 7 & 0x7F, 0x80 | _CODEC >> 14 & 0x7F, _CODEC >> 21]
)
_CID_PREFIX: Final = b"\x01" + _CODEC_VARINT + b"\x1e" + bytes([HASH_BYTES])  # 0x1e: BLAKE3
CID_CHARS: Final = 64

Count = Annotated[int, msgspec.Meta(ge=1, le=RUN_CHUNKS_MAX)]
Index = Annotated[int, msgspec.Meta(ge=0, lt=CHUNKS_MAX)]


class BlobRef(Message, frozen=True):
    """Names a blob by content. `digest` is the hash of its manifest, which lists the hashes of its chunks."""

    digest: Digest
    size: U64  # bytes

    @property
    def cid(self) -> str:
        """The name as people and other tools write it: a CIDv1 in base32."""
        return cid_text(self.digest)


class Manifest(Message, frozen=True):
    """What a blob consists of. Obtained from `parse_manifest` or `make_manifest`, it is consistent."""

    version: Annotated[int, msgspec.Meta(ge=MANIFEST_VERSION, le=MANIFEST_VERSION)]
    size: Annotated[int, msgspec.Meta(ge=0, le=BLOB_BYTES_MAX)]  # bytes
    hashes: Annotated[bytes, msgspec.Meta(max_length=CHUNKS_MAX * HASH_BYTES)]  # 32 bytes a chunk, in order

    @property
    def chunk_count(self) -> int:
        return len(self.hashes) // HASH_BYTES

    def chunk_hash(self, index: int) -> bytes:
        return self.hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]

    def chunk_bytes(self, index: int) -> int:
        """Length of a chunk: CHUNK_BYTES, but for the last."""
        return min(CHUNK_BYTES, self.size - index * CHUNK_BYTES)


Bitmap = Annotated[bytes, msgspec.Meta(max_length=BITMAP_BYTES_MAX)]  # bit i % 8 of byte i // 8: chunk i


class ManifestRequest(Message, frozen=True):
    digest: Digest


class ManifestReply(Message, frozen=True):
    manifest: Annotated[bytes, msgspec.Meta(max_length=MANIFEST_BYTES_MAX)]
    have: Bitmap | None  # None: all
    bytes_per_s: U64 = 0  # at which it has sent at its best of late, to all together


class HaveRequest(Message, frozen=True):
    """What a holder has by now."""

    digests: Annotated[list[Digest], msgspec.Meta(min_length=1, max_length=HAVES_MAX)]


class HaveReply(Message, frozen=True):
    haves: Annotated[list[Bitmap | None], msgspec.Meta(max_length=HAVES_MAX)]  # None: all; empty: nothing
    bytes_per_s: U64 = 0  # as in ManifestReply


class ChunksRequest(Message, frozen=True):
    """Send `count` chunks from `first` on, the first without `skip` bytes of its beginning, which came another way.

    A call takes any number of these, and answers them in order.
    """

    digest: Digest
    first: Index
    count: Count
    skip: Annotated[int, msgspec.Meta(ge=0, lt=CHUNK_BYTES)] = 0


class Piece(Message, frozen=True):
    """The next bytes of a chunk. A chunk's pieces come in order and are not mixed with another's. Before a chunk whose
    turn it is not yet come pieces without a byte.
    """

    index: Index
    data: Annotated[memoryview, msgspec.Meta(max_length=PIECE_BYTES)]  # of the chunk, or of the message


MANIFEST: Final = Unary(
    "/shoal/blobs/1/manifest", ManifestRequest, ManifestReply, 64, MANIFEST_BYTES_MAX + BITMAP_BYTES_MAX + 32
)
HAVE: Final = Unary(
    "/shoal/blobs/1/have",
    HaveRequest,
    HaveReply,
    HAVES_MAX * (HASH_BYTES + 2) + 32,
    HAVES_MAX * (BITMAP_BYTES_MAX + 3) + 32,
)
CHUNKS: Final = Streaming("/shoal/blobs/1/chunks", ChunksRequest, Piece, 64, PIECE_BYTES + 32)


def cid_text(digest: bytes) -> str:
    """The CIDv1 of a manifest's 32-byte hash: multibase "b" (lower-case base32 without padding), 64 characters."""
    return "b" + base64.b32encode(_CID_PREFIX + digest).decode().rstrip("=").lower()


def parse_cid(text: str) -> bytes | Malformed:
    """The 32-byte digest that `text` names, or why it names no blob of Shoal's. Only the canonical text is accepted."""
    if len(text) != CID_CHARS or not text.startswith("b"):
        return Malformed(f"expected a blob's CID of {CID_CHARS} characters that starts with 'b', got {text[:80]!r}")
    try:
        data = base64.b32decode(text[1:].upper() + "=")
    except (binascii.Error, ValueError):
        return Malformed(f"not base32: {text!r}")
    digest = data[len(_CID_PREFIX) :]
    if not data.startswith(_CID_PREFIX) or cid_text(digest) != text:
        return Malformed(f"not the CIDv1 of a Shoal manifest under BLAKE3: {text!r}")
    return digest


def chunk_count(size: int) -> int:
    """Chunks of a blob of `size` bytes."""
    return -(-size // CHUNK_BYTES)


def make_manifest(size: int, hashes: bytes) -> tuple[BlobRef, bytes]:
    """The name and the manifest's bytes for a blob of `size` bytes whose chunks hash to `hashes`, 32 bytes each.

    Raises:
        ValueError: `size` and `hashes` do not fit together, or the blob is larger than BLOB_BYTES_MAX.
    """
    if size > BLOB_BYTES_MAX or len(hashes) != chunk_count(size) * HASH_BYTES:
        raise ValueError(f"{len(hashes)} bytes of hashes for a blob of {size} bytes")
    data = encode(Manifest(MANIFEST_VERSION, size, hashes))
    return BlobRef(blake3(data).digest(), size), data


class ChunkHasher:
    """Names a blob while its bytes go by."""

    def __init__(self) -> None:
        self.size = 0  # bytes so far
        self._hashes = bytearray()
        self._hasher = blake3()

    def update(self, part: bytes | bytearray | memoryview) -> None:
        """The next bytes; a part must not cross the border between two chunks."""
        self._hasher.update(part)
        self.size += len(part)
        if self.size % CHUNK_BYTES == 0 and len(part):
            self._end_chunk()

    def finish(self) -> tuple[BlobRef, bytes]:
        """The name and the manifest's bytes. Raises ValueError if the blob is larger than BLOB_BYTES_MAX."""
        if self.size % CHUNK_BYTES:
            self._end_chunk()
        return make_manifest(self.size, bytes(self._hashes))

    def _end_chunk(self) -> None:
        self._hashes += self._hasher.digest()
        self._hasher = blake3()


def parse_manifest(data: bytes, digest: bytes) -> Manifest | Malformed:
    """The manifest in `data`, if that is what `digest` names and it is consistent.

    Whoever made the blob chose the manifest, so a matching hash alone proves nothing about its content.
    """
    if blake3(data).digest() != digest:
        return Malformed(f"manifest of {len(data)} bytes does not hash to {cid_text(digest)}")
    manifest = decode(data, Manifest, MANIFEST_BYTES_MAX)
    if isinstance(manifest, Malformed):
        return manifest
    if len(manifest.hashes) != chunk_count(manifest.size) * HASH_BYTES or encode(manifest) != data:
        return Malformed(
            f"manifest of {cid_text(digest)} contradicts itself: {manifest.size} bytes, {manifest.chunk_count} hashes"
        )
    return manifest


def same_chunks(one: Manifest, other: Manifest) -> int:
    """Chunks, as bits, that both blobs have in the same place."""
    return sum(
        1 << index
        for index in range(min(one.chunk_count, other.chunk_count))
        if one.chunk_hash(index) == other.chunk_hash(index)
    )


def bitmap_from_mask(mask: int, count: int) -> bytes:
    """The bitmap of a holder that has the chunks whose bits are set in `mask`, of `count`."""
    return mask.to_bytes(-(-count // 8), "little")


def mask_from_bitmap(bitmap: bytes | None, count: int) -> int | Malformed:
    """The chunks that a holder says it has, as the bits of an integer; None stands for all `count`."""
    if bitmap is None:
        return (1 << count) - 1
    mask = int.from_bytes(bitmap, "little")
    if len(bitmap) != -(-count // 8) or mask >> count:
        return Malformed(f"bitmap of {len(bitmap)} bytes for {count} chunks")
    return mask
