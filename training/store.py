"""What a member keeps on disk beside its blobs: where it stands, what it has offered. The shell for the disk.

Every file is written whole under another name, synced and renamed, so that after a kill -9 each holds the old or the
new value, never a part. A file that cannot be read counts as missing; the engine says so and catches up from others.
"""

import os
import threading
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from shoal.transport.blobs import BlobRef
from shoal.transport.wire import U64, Malformed, Message, decode, encode

from .records import CONTRIBUTION_BYTES_MAX, ContributionBytes, Head

FILE_VERSION = 2
TURNS_MAX = 2 * 16 + 3  # of one member that a record may still take
FILE_BYTES_MAX = TURNS_MAX * CONTRIBUTION_BYTES_MAX + 1024

Version = Annotated[int, msgspec.Meta(ge=FILE_VERSION, le=FILE_VERSION)]
StoredMessage = TypeVar("StoredMessage", bound=Message)


class StoredHead(Message, frozen=True):
    """The newest round that is applied, settled and saved."""

    version: Version
    head: Head
    state: BlobRef | None
    local: BlobRef | None


class StoredTurns(Message, frozen=True):
    """This member's contributions that a record may still take, so that a restart never makes others in their place."""

    version: Version
    contributions: Annotated[tuple[ContributionBytes, ...], msgspec.Meta(max_length=TURNS_MAX)]


class StoredSequence(Message, frozen=True):
    """The highest sequence this member has used for its presence."""

    version: Version
    sequence: U64


class MemberStore:
    """One swarm's folder. All calls block: they belong into worker threads."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()  # of each file's draft, and of the sequence from reading to writing

    def load_head(self) -> StoredHead | Malformed | None:
        return self._load("head", StoredHead)

    def save_head(self, head: StoredHead) -> None:
        """Raises OSError, as all saves here do."""
        self._save("head", head)

    def load_turns(self) -> StoredTurns | Malformed | None:
        return self._load("turns", StoredTurns)

    def save_turns(self, contributions: tuple[bytes, ...]) -> None:
        self._save("turns", StoredTurns(FILE_VERSION, contributions[-TURNS_MAX:]))

    def next_sequence(self) -> int:
        """A sequence never given before, on disk before it is used."""
        with self._lock:
            stored = self._load("sequence", StoredSequence)
            sequence = stored.sequence + 1 if isinstance(stored, StoredSequence) else 1
            self._write("sequence", StoredSequence(FILE_VERSION, sequence))
        return sequence

    def _load(self, name: str, type_: type[StoredMessage]) -> StoredMessage | Malformed | None:
        try:
            data = (self._directory / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            return Malformed(f"{self._directory / name} cannot be read: {error.strerror}")
        return decode(data, type_, FILE_BYTES_MAX)

    def _save(self, name: str, value: Message) -> None:
        with self._lock:
            self._write(name, value)

    def _write(self, name: str, value: Message) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        draft = self._directory / f"{name}.new"
        with draft.open("wb") as file:
            file.write(encode(value))
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, self._directory / name)
        if os.name == "posix":
            descriptor = os.open(self._directory, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
