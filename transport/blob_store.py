"""Which blobs are on disk: under a budget, the least recently used evicted first, the pinned never.

What nobody pins stays only until something new is stored, which takes its place instead of more of the disk: a file
that is deleted before the kernel has written it out costs the disk nothing, and the new file gets its pages of memory
(fresh ones make a write ten times as slow in a virtual machine whose host takes back what is free: 0.2 s per 100 MB).

A blob's file is written under `partial/` and renamed to its CID when complete, so a file under its name is whole.
Every chunk is hashed before it is written, and the chunks of an unfinished file are hashed again when it is resumed:
the file itself says what it holds, and no index can disagree with it.

What is reported as stored survives the death of the process: the kernel has it. It is not fsynced: others hold those
bytes too, and every round would wait for the owner's disk. Instead, at the first start after a reboot every blob is
hashed, and what a power loss spoiled is dropped before anybody believes it. All methods but `unpin` block; they may
be called from any thread.
"""

import errno
import itertools
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from blake3 import blake3

from .blob_disk import FREE_BYTES_MIN, boot_id, budget_refusal, disk_refusal, free_bytes_of
from .blob_file import (
    Buffer,
    Held,
    Partial,
    StoredBlob,
    blob_files,
    cut,
    is_unread,
    is_whole,
    open_over,
    read_chunk_into,
    read_manifest,
    shared_chunks,
    trailer,
    verified_chunks,
    write_chunk,
    write_unfinished,
)
from .blob_pins import Pins
from .blobs import BLOB_BYTES_MAX, CHUNK_BYTES, BlobRef, ChunkHasher, Manifest, bitmap_from_mask, cid_text
from .port import Code, Refusal

_log = logging.getLogger(__name__)

_Index = OrderedDict[bytes, int]  # digest -> bytes of its file; the least recently used first


class BlobStore:
    """The blobs of one data directory, which one process uses at a time. Opening it scans the directory.

    Args:
        directory: made if it is not there.
        budget_bytes: of all files together, unfinished ones at their full size.
        free_bytes: how much the disk has left.
        boot: as `boot_id`. Blobs stored under another, or if it is empty, are hashed before they are believed.
    """

    def __init__(
        self,
        directory: Path,
        budget_bytes: int,
        free_bytes: Callable[[Path], int] = free_bytes_of,
        boot: str | None = None,
    ) -> None:
        self._directory = directory
        self._partials = directory / "partial"
        self._partials.mkdir(parents=True, exist_ok=True)
        self._budget_bytes = budget_bytes
        self._free_bytes = free_bytes
        self._lock = threading.Lock()  # of all below; never held while a file's content is read or written
        self._complete: _Index = OrderedDict()
        self._idle: _Index = OrderedDict()  # unfinished and not being fetched: resumable, and evicted last
        self._active: dict[bytes, Partial] = {}
        self._used_bytes = 0  # by all of them, and what is reserved
        self._numbers = itertools.count()
        self._scan(boot_id() if boot is None else boot)
        self._pins = Pins(directory / "pins.jsonl")
        self._pins.forget_absent(set(self._complete))

    @property
    def used_bytes(self) -> int:
        return self._used_bytes

    def labels(self) -> dict[str, frozenset[bytes]]:
        """The digests that each label pins."""
        return self._pins.labels()

    def put(
        self, pieces: Iterable[Buffer], pin: str, checkpoint: Callable[[], None] = lambda: None
    ) -> BlobRef | Refusal:
        """Store the concatenation of `pieces`, pinned. They are hashed and written from where they lie, without a copy.

        A sequence of pieces is refused before anything is evicted for it; of an iterator the size is known only at
        its end. `checkpoint` is called at least once per chunk; what it raises ends the call and leaves nothing
        behind.
        """
        path = self._partials / f"put-{next(self._numbers)}"
        reserved = sum(memoryview(piece).nbytes for piece in pieces) if isinstance(pieces, Sequence) else 0
        if refusal := self._reserve(reserved, path):
            return refusal
        hasher = ChunkHasher()
        try:
            with open_over(path) as file:
                for part in cut(pieces):
                    checkpoint()
                    hasher.update(part)
                    if hasher.size > BLOB_BYTES_MAX:
                        return Refusal(Code.TOO_LARGE, f"a blob has at most {BLOB_BYTES_MAX} bytes")
                    if hasher.size > reserved:
                        if refusal := self._reserve(CHUNK_BYTES):
                            return refusal
                        reserved += CHUNK_BYTES
                    file.write(part)
                ref, manifest_data = hasher.finish()
                file.write(trailer(manifest_data))
                file.truncate()
            self._commit(path, ref.digest, hasher.size + len(trailer(manifest_data)), [pin])
            return ref
        except OSError as error:
            return disk_refusal(error)
        finally:
            path.unlink(missing_ok=True)
            with self._lock:
                self._used_bytes -= reserved

    def begin(
        self, digest: bytes, manifest: Manifest, manifest_data: bytes, checkpoint: Callable[[], None] = lambda: None
    ) -> int | Refusal:
        """Make room for a blob, and take up what an earlier fetch left of it: the chunks that are here, as bits.

        Until `finish` or `abandon` it is not evicted, and must not be begun again.
        """
        path, partial = self._partial_path(digest), Partial(manifest, manifest_data)
        with self._lock:
            left_bytes = self._idle.pop(digest, None)
            self._used_bytes += 0 if left_bytes is None else partial.file_bytes - left_bytes
        if left_bytes is None and (refusal := self._reserve(partial.file_bytes, path)):
            return refusal
        with self._lock:
            self._active[digest] = partial
        is_ready = False
        try:
            if read_manifest(path, digest) is None:
                write_unfinished(path, manifest_data, manifest.size)
            else:
                partial.have = verified_chunks(path, manifest, checkpoint)
            is_ready = True
            return partial.have
        except OSError as error:
            return disk_refusal(error)
        finally:
            if not is_ready:
                self.abandon(digest)

    def write_chunk(self, digest: bytes, index: int, pieces: Iterable[Buffer]) -> bool | Refusal:
        """Write a chunk of a blob that was begun, if it hashes to what the manifest lists. False: it does not."""
        partial, hasher = self._active.get(digest), blake3()
        if partial is None or partial.have >> index & 1:
            return True  # nobody waits for it: the fetch has just ended, or another brought it
        for piece in pieces:
            hasher.update(piece)
        if hasher.digest() != partial.manifest.chunk_hash(index):
            return False
        if self._free_bytes(self._directory) < FREE_BYTES_MIN:
            return disk_refusal(OSError(errno.ENOSPC, f"less than {FREE_BYTES_MIN} bytes are left"))
        try:
            write_chunk(self._partial_path(digest), index, pieces)
        except OSError as error:
            return disk_refusal(error)
        with self._lock:
            partial.have |= 1 << index
        return True

    def copy_same(self, digest: bytes, like: bytes, checkpoint: Callable[[], None] = lambda: None) -> int | Refusal:
        """Write what a begun blob shares with a complete one, `like`: the chunks that are here then, as bits.

        They are hashed as all others are, so what has gone bad in `like` stays missing.
        """
        partial = self._active[digest]
        for index, data in shared_chunks(self._directory / cid_text(like), like, partial.manifest, ~partial.have):
            checkpoint()
            written = self.write_chunk(digest, index, [data])
            if isinstance(written, Refusal):
                return written
        return partial.have

    def finish(self, digest: bytes, labels: Iterable[str]) -> Refusal | None:
        """A begun blob has all its chunks: from now on it is complete, and pinned under `labels`.

        If the disk refuses, the blob stays resumable.
        """
        partial, path = self._active[digest], self._partial_path(digest)
        if not partial.is_complete:
            raise RuntimeError(f"{cid_text(digest)} lacks chunks")
        try:
            self._commit(path, digest, partial.file_bytes, labels)
            path.unlink(missing_ok=True)  # still there if it was put meanwhile
        except OSError as error:
            return disk_refusal(error)
        finally:
            self.abandon(digest)
        return None

    def abandon(self, digest: bytes) -> None:
        """Nobody fetches this any more. What is there of it can be resumed, until its room is needed."""
        path = self._partial_path(digest)
        with self._lock:
            partial = self._active.pop(digest, None)
            if partial is not None and path.exists():
                self._idle[digest] = partial.file_bytes
            elif partial is not None:
                self._used_bytes -= partial.file_bytes

    def open(self, ref: BlobRef) -> StoredBlob | None:
        """A reader, or None if the blob is not complete here. Cheap enough for the event loop."""
        with self._lock:
            if not self._touch(ref.digest):
                return None
        path = self._directory / cid_text(ref.digest)
        found = read_manifest(path, ref.digest)
        if found is None or found[0].size != ref.size:
            return None
        try:
            os.utime(path)  # the order of eviction after a restart
            return StoredBlob(path, ref)
        except FileNotFoundError:
            return None  # evicted just now

    def unfinished(self, digest: bytes) -> tuple[Manifest, bytes] | None:
        """The manifest of a blob whose fetch can be resumed, so that it need not be fetched again."""
        with self._lock:
            is_here = digest in self._idle
        return read_manifest(self._partial_path(digest), digest) if is_here else None

    def held(self, digest: bytes) -> Held | None:
        """What is here of a blob that is complete or being fetched."""
        with self._lock:
            partial = self._active.get(digest)
            if partial is not None:
                return Held(partial.manifest_data, partial.manifest.chunk_count, partial.have)
            is_here = self._touch(digest)
        found = read_manifest(self._directory / cid_text(digest), digest) if is_here else None
        return None if found is None else Held(found[1], found[0].chunk_count, None)

    def have(self, digest: bytes) -> bytes | None:
        """Which chunks of it are here, as a bitmap; None: all; empty: nothing. Looks at no file."""
        with self._lock:
            partial = self._active.get(digest)
            if partial is not None:
                return bitmap_from_mask(partial.have, partial.manifest.chunk_count)
            return None if self._touch(digest) else b""

    def read_chunk(self, digest: bytes, index: int) -> bytes | None:
        """A chunk's bytes, or None if it is not here. Raises OSError if the disk fails."""
        buffer = bytearray(CHUNK_BYTES)
        length = self.read_chunk_into(digest, index, memoryview(buffer))
        return None if length is None else bytes(buffer[:length])

    def read_chunk_into(self, digest: bytes, index: int, buffer: memoryview) -> int | None:
        """As `read_chunk`, into a buffer of CHUNK_BYTES at least: the chunk's length."""
        with self._lock:
            partial = self._active.get(digest)
            begun = [self._partial_path(digest)] if partial is not None and partial.have >> index & 1 else []
            if not begun and not self._touch(digest):
                return None  # also where a fetch left a file behind: that has holes
        for path in (*begun, self._directory / cid_text(digest)):  # it may be finished just now
            try:
                return read_chunk_into(path, index, buffer)
            except FileNotFoundError:
                continue
        return None

    def owner_of(self, digest: bytes) -> str:
        """Whose a blob is, by its labels: what they begin with, up to a slash. Empty where nobody pins it."""
        return self._pins.label_of(digest).split("/")[0]

    def pin(self, digest: bytes, label: str) -> bool | Refusal:
        """Pin a complete blob. False: it is not here."""
        with self._lock:
            if not self._touch(digest):
                return False
            is_new = self._pins.add(label, digest)
        try:
            self._pins.flush()
        except OSError as error:
            if is_new:
                self._pins.undo(label, digest)
            return disk_refusal(error)
        return True

    def unpin(self, label: str) -> None:
        """Let go of what `label` holds, at once in memory; on disk with the next `flush`. Does not block."""
        self._pins.remove(label)

    def flush(self) -> None:
        """Write down what was let go of. Raises OSError."""
        self._pins.flush()

    def _touch(self, digest: bytes) -> bool:
        """Mark as just used; False if it is not complete here."""
        if digest not in self._complete:
            return False
        self._complete.move_to_end(digest)
        return True

    def _partial_path(self, digest: bytes) -> Path:
        return self._partials / cid_text(digest)

    def _reserve(self, needed: int, path: Path | None = None) -> Refusal | None:
        """Take `needed` bytes of the budget, in place of what may go; if what must go may not, evict nothing.

        An evicted file that nobody reads lies at `path` then, to be written over.
        """
        with self._lock:
            free = self._free_bytes(self._directory)
            over_budget = self._used_bytes + needed - self._budget_bytes
            over_disk = needed + FREE_BYTES_MIN - free if needed else 0
            victims: list[tuple[_Index, bytes]] = []
            gained = 0
            for index, digest, file_bytes in self._evictable():
                if gained >= max(over_budget, over_disk, 0 if index is self._idle else needed):
                    break
                victims.append((index, digest))
                gained += file_bytes
            if gained < over_budget:
                return budget_refusal(self._budget_bytes, self._used_bytes - gained, needed)
            if gained < over_disk:
                return disk_refusal(OSError(errno.ENOSPC, f"{free} bytes are left, {needed} are needed"))
            self._used_bytes += needed
            evicted = [self._evict(index, digest) for index, digest in victims]
        for old in evicted:
            if path is not None and not path.exists() and is_unread(old):
                old.rename(path)
            else:
                old.unlink(missing_ok=True)
        return None

    def _evictable(self) -> Iterator[tuple[_Index, bytes, int]]:
        for digest, file_bytes in self._complete.items():
            if not self._pins.is_pinned(digest):
                yield self._complete, digest, file_bytes
        for digest, file_bytes in self._idle.items():
            yield self._idle, digest, file_bytes

    def _evict(self, index: _Index, digest: bytes) -> Path:
        """Take a file out of the store. It is only renamed: deleting takes long, and the lock is held."""
        directory = self._partials if index is self._idle else self._directory
        path = self._partials / f"evicted-{next(self._numbers)}"
        with suppress(FileNotFoundError):
            (directory / cid_text(digest)).rename(path)
        self._used_bytes -= index.pop(digest)
        return path

    def _commit(self, path: Path, digest: bytes, file_bytes: int, labels: Iterable[str]) -> None:
        """Pin, then rename: a crash between leaves a pin on nothing, which the next start forgets. Raises OSError."""
        added = [label for label in labels if self._pins.add(label, digest)]
        try:
            self._pins.flush()
            with self._lock:
                if not self._touch(digest):
                    path.rename(self._directory / cid_text(digest))
                    self._complete[digest] = file_bytes
                    self._used_bytes += file_bytes
        except OSError:
            for label in added:
                self._pins.undo(label, digest)
            raise

    def _scan(self, boot: str) -> None:
        """Find what is here. Raises OSError if the directory can't be read or written."""
        for path in sorted(self._partials.glob("*-*")):
            path.unlink()  # neither a put nor an eviction outlives its process
        for path, digest in blob_files(self._partials):
            self._idle[digest] = path.stat().st_size
        stamp = self._directory / "boot"
        is_trusted = boot != "" and stamp.exists() and stamp.read_text() == boot
        for path, digest in blob_files(self._directory):
            if is_trusted or is_whole(path, digest):
                self._complete[digest] = path.stat().st_size
            else:
                _log.warning("dropped a blob that the last power loss spoiled: %s", path.name)
                path.unlink()
        stamp.write_text(boot)
        self._used_bytes = sum(self._complete.values()) + sum(self._idle.values())
