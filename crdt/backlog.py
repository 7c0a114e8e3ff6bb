"""Batches that cannot be judged yet, because they follow others on their way or name a record that is not known here.

Only batches with a good signature get here. When there is no room the newcomer is dropped: whoever sent it still has
it, and hands it over again when it is asked for what is missing. So the bounds cost time, never agreement.

A malicious writer may send what never gets anything to follow. It fills its own share, which is a small part of the
whole: to take the room of others it needs ever more keys. Nobody's batches give way to others', or who sends two in
turn would have each carried to all every time.
"""

from typing import Final

from .dots import Writer
from .operation import Stretch

WRITER_MAX: Final = 64  # batches of one writer
WRITER_BYTES_MAX: Final = 256 * 1024  # likewise: as much as one message of an exchange brings
BYTES_MAX: Final = 8 * 1024 * 1024  # of all


class Backlog:
    """See the module's text."""

    def __init__(self) -> None:
        self._waiting: dict[Writer, dict[bytes, Stretch]] = {}  # by the hash they end with
        self.bytes = 0

    def add(self, stretch: Stretch) -> bool:
        """Keep a batch for later; whether it was."""
        waiting = self._waiting.setdefault(stretch.writer, {})
        if stretch.hashes[-1] in waiting:
            return True
        own = sum(len(each.data) for each in waiting.values()) + len(stretch.data)
        is_beyond_share = len(waiting) >= WRITER_MAX or own > WRITER_BYTES_MAX
        if is_beyond_share or self.bytes + len(stretch.data) > BYTES_MAX:
            if not waiting:
                del self._waiting[stretch.writer]
            return False
        waiting[stretch.hashes[-1]] = stretch
        self.bytes += len(stretch.data)
        return True

    def take(self, writer: Writer) -> list[Stretch]:
        """All that waits of a writer, in the order of its chain; what has still to wait is to be added again."""
        waiting = self._waiting.pop(writer, None)
        if waiting is None:
            return []
        self.bytes -= sum(len(stretch.data) for stretch in waiting.values())
        return sorted(waiting.values(), key=lambda stretch: (stretch.first, stretch.last, stretch.hashes[-1]))

    def writers(self) -> list[Writer]:
        return sorted(self._waiting)

    def reaches(self, stretch: Stretch) -> bool:
        """Whether a batch that ends with the same operation waits."""
        return stretch.hashes[-1] in self._waiting.get(stretch.writer, {})

    def holds(self, stretch: Stretch) -> bool:
        """Whether these very bytes wait: no hash covers a signature, so another's need not be good."""
        held = self._waiting.get(stretch.writer, {}).get(stretch.hashes[-1])
        return held is not None and held.data == stretch.data
