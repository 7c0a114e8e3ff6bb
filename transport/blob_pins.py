"""Which blobs are pinned under which labels, in a journal of lines that survives the death of the process.

A journal and not a file that is rewritten: a line is appended in microseconds, and what was written before can't be
lost by it. A torn last line, which a crash leaves, is cut off. May be used from any thread.
"""

import errno
import os
import threading
from collections import Counter
from pathlib import Path
from typing import Annotated, Final

import msgspec

from .blobs import cid_text, parse_cid
from .wire import Malformed

LABEL_CHARS_MAX: Final = 200
LINES_SPARE: Final = 1_000  # dead lines kept before the journal is rewritten; disk: about 100 KB


class _Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line: `blob` is pinned under `label`; without a blob: the label lets go of all it held."""

    label: Annotated[str, msgspec.Meta(max_length=LABEL_CHARS_MAX)]
    blob: str | None = None


class Pins:
    """Labels and the digests they hold. Opening reads the journal."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()  # of what is in memory; never held during disk access
        self._journal_lock = threading.Lock()  # keeps the lines in the order of the changes
        self._held: dict[str, set[bytes]] = {}
        self._counts: Counter[bytes] = Counter()
        self._pending: list[bytes] = []
        self._line_count = self._load()
        if self._is_long():
            self._rewrite()

    def is_pinned(self, digest: bytes) -> bool:
        return digest in self._counts

    def label_of(self, digest: bytes) -> str:
        """One that holds it; empty if none does."""
        with self._lock:
            return next((label for label, held in self._held.items() if digest in held), "")

    def labels(self) -> dict[str, frozenset[bytes]]:
        """The digests that each label holds."""
        with self._lock:
            return {label: frozenset(held) for label, held in sorted(self._held.items())}

    def add(self, label: str, digest: bytes) -> bool:
        """Pin, durably after the next `flush`. False: it was. Raises ValueError if the label is too long."""
        if len(label) > LABEL_CHARS_MAX:
            raise ValueError(f"a pin's label has at most {LABEL_CHARS_MAX} characters: {label[:40]!r}...")
        with self._lock:
            is_new = self._add(label, digest)
            if is_new:
                self._pending.append(_encode(label, digest))
            return is_new

    def undo(self, label: str, digest: bytes) -> None:
        """Take back an `add` whose `flush` failed."""
        with self._lock:
            line = _encode(label, digest)
            if line in self._pending:
                self._pending.remove(line)
                self._held[label].discard(digest)
                if not self._held[label]:
                    del self._held[label]
                self._uncount(digest)

    def remove(self, label: str) -> None:
        """Let go of all that `label` holds: at once in memory, durably after the next `flush`. Does not block."""
        with self._lock:
            held = self._held.pop(label, None)
            if held is not None:
                self._pending.append(_encode(label, None))
            for digest in held or ():
                self._uncount(digest)

    def forget_absent(self, present: set[bytes]) -> None:
        """Let go of pinned blobs that are not among `present`: somebody deleted their files."""
        for label, held in self.labels().items():
            if not held <= present:
                self.remove(label)
                for digest in sorted(held & present):
                    self.add(label, digest)

    def flush(self) -> None:
        """Write down all changes so far. Raises OSError; then none of them is, and the next flush tries again."""
        with self._journal_lock:
            with self._lock:
                lines, self._pending = self._pending, []
            try:
                if lines and self._is_long():
                    self._rewrite()  # a node that runs for a year would fill its disk with lines
                elif lines:
                    self._append(b"".join(lines))
                    self._line_count += len(lines)
            except OSError:
                with self._lock:
                    self._pending[:0] = lines
                raise

    def _append(self, data: bytes) -> None:
        with self._path.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                file.truncate(before)
                raise

    def _add(self, label: str, digest: bytes) -> bool:
        held = self._held.setdefault(label, set())
        if digest in held:
            return False
        held.add(digest)
        self._counts[digest] += 1
        return True

    def _uncount(self, digest: bytes) -> None:
        self._counts[digest] -= 1
        if not self._counts[digest]:
            del self._counts[digest]

    def _load(self) -> int:
        """Read the journal, cutting off a torn last line. Returns the number of lines."""
        if not self._path.exists():
            return 0
        data = self._path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with self._path.open("r+b") as file:
                file.truncate(whole)
        lines = data[:whole].splitlines()
        for text in lines:
            try:
                line = msgspec.json.decode(text, type=_Line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue  # power loss may leave zeros in the middle; the lines after them still count
            digest = None if line.blob is None else parse_cid(line.blob)
            if digest is None:
                for held in self._held.pop(line.label, ()):
                    self._uncount(held)
            elif not isinstance(digest, Malformed):
                self._add(line.label, digest)
        return len(lines)

    def _is_long(self) -> bool:
        return self._line_count > 2 * self._counts.total() + LINES_SPARE

    def _rewrite(self) -> None:
        """Write what is held, pending changes included: a line that is then appended once more changes nothing."""
        lines = [_encode(label, digest) for label, held in self.labels().items() for digest in sorted(held)]
        fresh = self._path.with_suffix(".new")
        fresh.write_bytes(b"".join(lines))
        fresh.replace(self._path)
        self._line_count = len(lines)


def _encode(label: str, digest: bytes | None) -> bytes:
    return msgspec.json.encode(_Line(label, None if digest is None else cid_text(digest))) + b"\n"
