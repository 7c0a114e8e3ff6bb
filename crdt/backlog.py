"""Batches that cannot be judged yet, because they follow others on their way or name a record that is not known here.

Only batches with a good signature get here. When there is no room the newcomer is dropped: whoever sent it still has
it, and hands it over again when it is asked for what is missing. So the bounds cost time, never agreement.

A malicious writer may send what never gets anything to follow. It fills its own share, which is a small part of the
whole: to take the room of others it needs ever more keys. Nobody's batches give way to others', or who sends two in
turn would have each carried to all every time.
"""

from typing import Final

import msgspec

from .dots import Writer
from .operation import Stretch

WRITER_MAX: Final = 64  # batches of one writer
WRITER_BYTES_MAX: Final = 256 * 1024  # likewise: as much as one message of an exchange brings
BYTES_MAX: Final = 8 * 1024 * 1024  # of all


class _Share(msgspec.Struct, gc=False):
    """What waits of one writer."""

    stretches: dict[bytes, Stretch] = {}  # by the hash they end with
    size: int = 0  # bytes


class Backlog:
    """See the module's text."""

    def __init__(self) -> None:
        self._waiting: dict[Writer, _Share] = {}
        self.bytes = 0

    def add(self, stretch: Stretch) -> bool:
        """Keep a batch for later; whether it was."""
        share = self._waiting.get(stretch.writer) or _Share()
        if stretch.hashes[-1] in share.stretches:
            return True
        size = len(stretch.data)
        is_beyond_share = len(share.stretches) >= WRITER_MAX or share.size + size > WRITER_BYTES_MAX
        if is_beyond_share or self.bytes + size > BYTES_MAX:
            return False
        self._waiting[stretch.writer] = share
        share.stretches[stretch.hashes[-1]] = stretch
        share.size += size
        self.bytes += size
        return True

    def take(self, writer: Writer) -> list[Stretch]:
        """All that waits of a writer, in the order of its chain; what has still to wait is to be added again."""
        share = self._waiting.pop(writer, None)
        if share is None:
            return []
        self.bytes -= share.size
        return sorted(share.stretches.values(), key=lambda stretch: (stretch.first, stretch.last, stretch.hashes[-1]))

    def writers(self) -> list[Writer]:
        return sorted(self._waiting)

    def reaches(self, stretch: Stretch) -> bool:
        """Whether a batch that ends with the same operation waits."""
        return self._same(stretch) is not None

    def holds(self, stretch: Stretch) -> bool:
        """Whether these very bytes wait: no hash covers a signature, so another's need not be good."""
        held = self._same(stretch)
        return held is not None and held.data == stretch.data

    def _same(self, stretch: Stretch) -> Stretch | None:
        """What waits that ends with the same operation."""
        share = self._waiting.get(stretch.writer)
        return None if share is None else share.stretches.get(stretch.hashes[-1])
