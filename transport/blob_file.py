"""The file of one blob: its bytes, then its manifest, then the manifest's length in 4 bytes, big-endian.

One file and not two, so that one rename makes it whole. The length comes last because the manifest is known only
after the bytes when a blob is put, and the bytes start at 0 so that a chunk's place follows from its index. The
functions block.
"""

import errno
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from blake3 import blake3

from .blobs import CHUNK_BYTES, MANIFEST_BYTES_MAX, BlobRef, Manifest, parse_cid, parse_manifest, same_chunks

if sys.platform == "linux":
    import fcntl

FOOTER_BYTES: Final = 4

Buffer = bytes | bytearray | memoryview


@dataclass(slots=True)
class Partial:
    """A blob on its way here."""

    manifest: Manifest
    manifest_data: bytes
    have: int = 0  # chunks written, as bits

    @property
    def is_complete(self) -> bool:
        return self.have == (1 << self.manifest.chunk_count) - 1

    @property
    def file_bytes(self) -> int:
        return self.manifest.size + len(trailer(self.manifest_data))


@dataclass(frozen=True, slots=True)
class Held:
    """What is here of a blob."""

    manifest_data: bytes
    chunk_count: int
    have: int | None  # chunks, as bits; None: all


class StoredBlob:
    """A complete blob, open for reading from any thread. What is open stays readable when it is evicted."""

    def __init__(self, path: Path, ref: BlobRef) -> None:
        self._path, self._ref = path, ref
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()
        self.close = weakref.finalize(self, os.close, self._file)  # readers are handed out and dropped, not closed

    @property
    def size(self) -> int:
        """Bytes."""
        return self._ref.size

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`. Raises ValueError outside of the blob, OSError if the disk fails."""
        self._expect(offset, length)
        parts: list[bytes] = []
        while length:  # one read gives at most 2 GiB
            part = self._read_some(offset, length)
            self._expect_some(len(part))
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_into(self, offset: int, room: memoryview) -> None:
        """As many bytes from `offset` as `room` has, of format B: without a copy, and without fresh memory, which costs
        more than a copy. Raises as `read` does.
        """
        self._expect(offset, len(room))
        while len(room):
            count = self._read_some_into(offset, room)
            self._expect_some(count)
            offset, room = offset + count, room[count:]

    def _expect(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ValueError(f"bytes {offset} to {offset + length} of a blob of {self.size}")

    def _expect_some(self, count: int) -> None:
        if not count:
            raise OSError(f"{self._path} is shorter than {self.size} bytes: somebody else changed it")

    def _read_some(self, offset: int, length: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._file, length, offset)
        with self._lock:
            os.lseek(self._file, offset, os.SEEK_SET)
            return os.read(self._file, length)

    def _read_some_into(self, offset: int, room: memoryview) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._file, [room], offset)
        part = self._read_some(offset, len(room))
        room[: len(part)] = part
        return len(part)


def trailer(manifest_data: bytes) -> bytes:
    """What follows the blob's bytes."""
    return manifest_data + len(manifest_data).to_bytes(FOOTER_BYTES, "big")


def cut(pieces: Iterable[Buffer]) -> Iterator[memoryview]:
    """The pieces' bytes where they lie, cut where a chunk ends. Raises TypeError if a buffer is not contiguous."""
    room = CHUNK_BYTES
    for piece in pieces:
        view = memoryview(piece)
        if not view.nbytes:
            continue  # a shape with a zero in it can't be cast
        view = view.cast("B")
        while view.nbytes:
            part, view = view[:room], view[room:]
            room = room - part.nbytes or CHUNK_BYTES
            yield part


def open_over(path: Path) -> BinaryIO:
    """For writing from the beginning, over what is there: its pages of memory are used again. Raises OSError."""
    return path.open("r+b" if path.exists() else "wb", buffering=CHUNK_BYTES)


def is_unread(path: Path) -> bool:
    """Whether nobody has a file open whose name nobody else knows; False also where the system can't tell."""
    if sys.platform != "linux":
        return False
    try:
        with path.open("r+b") as file:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)  # granted to whoever alone has it open
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    return True


def write_unfinished(path: Path, manifest_data: bytes, size: int) -> None:
    """A file with room for `size` bytes of chunks, of which none is there: what is, is of another. Raises OSError."""
    with open_over(path) as file:
        file.truncate(size)
        file.seek(size)
        file.write(trailer(manifest_data))


def read_manifest(path: Path, digest: bytes) -> tuple[Manifest, bytes] | None:
    """The manifest that a blob's file ends with, and its bytes; None if the file is not that of `digest`."""
    try:
        with path.open("rb", buffering=0) as file:
            body = _body_bytes(file.fileno())
            if body is None:
                return None
            file.seek(body)
            data = file.read()[:-FOOTER_BYTES]
    except OSError:
        return None
    manifest = parse_manifest(data, digest)
    return (manifest, data) if isinstance(manifest, Manifest) and manifest.size == body else None


def read_chunk(path: Path, index: int) -> bytes | None:
    """The bytes of a chunk, unverified; None if there is no such chunk. Raises OSError."""
    buffer = memoryview(bytearray(CHUNK_BYTES))
    length = read_chunk_into(path, index, buffer)
    return None if length is None else bytes(buffer[:length])


def read_chunk_into(path: Path, index: int, buffer: memoryview) -> int | None:
    """As `read_chunk`, into a buffer of CHUNK_BYTES at least: the chunk's length."""
    with path.open("rb", buffering=0) as file:
        body = _body_bytes(file.fileno())
        if body is None or not 0 <= index * CHUNK_BYTES < body:
            return None
        length = min(CHUNK_BYTES, body - index * CHUNK_BYTES)
        file.seek(index * CHUNK_BYTES)
        count = file.readinto(buffer[:length])
    return length if count == length else None


def write_chunk(path: Path, index: int, pieces: Iterable[Buffer]) -> None:
    """Put a chunk in its place. Raises OSError."""
    with path.open("r+b", buffering=0) as file:
        file.seek(index * CHUNK_BYTES)
        for piece in pieces:
            if file.write(piece) != len(piece):  # a disk that is nearly full takes a part
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def verified_chunks(path: Path, manifest: Manifest, checkpoint: Callable[[], None] = lambda: None) -> int:
    """Chunks in a file that are what the manifest lists, as bits. `checkpoint` is called for each. Raises OSError."""
    have = 0
    buffer = bytearray(CHUNK_BYTES)
    with path.open("rb", buffering=0) as file:
        for index in range(manifest.chunk_count):
            checkpoint()
            view = memoryview(buffer)[: manifest.chunk_bytes(index)]
            if file.readinto(view) == len(view) and blake3(view).digest() == manifest.chunk_hash(index):
                have |= 1 << index
    return have


def shared_chunks(path: Path, digest: bytes, manifest: Manifest, wanted: int) -> Iterator[tuple[int, bytes]]:
    """(index, bytes) of the chunks of `manifest`, as bits in `wanted`, that the blob `digest` in this file has in the
    same place; unverified, and without those that the disk does not give.
    """
    found = read_manifest(path, digest)
    same = 0 if found is None else same_chunks(manifest, found[0]) & wanted
    for index in range(same.bit_length()):
        if same >> index & 1:
            with suppress(OSError):
                data = read_chunk(path, index)
                if data is not None:
                    yield index, data


def blob_files(directory: Path) -> list[tuple[Path, bytes]]:
    """Files named by a CID, least recently used first."""
    files = [(path, parse_cid(path.name)) for path in directory.iterdir()]
    blobs = [(path, digest) for path, digest in files if isinstance(digest, bytes)]
    return sorted(blobs, key=lambda blob: (blob[0].stat().st_mtime_ns, blob[0].name))


def is_whole(path: Path, digest: bytes) -> bool:
    """Whether a file is all of the blob `digest`: every byte is hashed. Raises OSError."""
    found = read_manifest(path, digest)
    return found is not None and verified_chunks(path, found[0]) == (1 << found[0].chunk_count) - 1


def _body_bytes(file: int) -> int | None:
    """Where the manifest starts, by the footer."""
    file_bytes = os.fstat(file).st_size
    os.lseek(file, max(file_bytes - FOOTER_BYTES, 0), os.SEEK_SET)
    footer = os.read(file, FOOTER_BYTES)
    manifest_bytes = int.from_bytes(footer, "big")
    body = file_bytes - FOOTER_BYTES - manifest_bytes
    return body if len(footer) == FOOTER_BYTES and manifest_bytes <= MANIFEST_BYTES_MAX and body >= 0 else None
