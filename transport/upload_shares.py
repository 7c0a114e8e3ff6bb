"""When what a node uploads may leave it: within its owner's limit, in fair shares. Pure.

Who uploads at the moment has an equal share each, however many connections and requests it has; who pauses gives its
share back within ACTIVE_S.
"""

from typing import Final

ACTIVE_S: Final = 0.5  # after its last bytes somebody counts as uploading
PIECE_BYTES_MAX: Final = 64 * 1024
UNLIMITED_PIECE_BYTES: Final = 2**21  # a chunk, with what goes before it
PIECE_BYTES_MIN: Final = 4 * 1024
PIECE_S: Final = 0.05  # of the whole rate; longer: who waits for a byte thinks that the line is dead


class UploadShares:
    """Bytes of all uploads.

    Args:
        bytes_per_s: the limit; 0: none.
    """

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at: dict[str, float] = {}  # when each owner's share is used up to

    @property
    def piece_bytes(self) -> int:
        """To ask for at once."""
        if not self._bytes_per_s:
            return UNLIMITED_PIECE_BYTES
        return min(max(int(self._bytes_per_s * PIECE_S), PIECE_BYTES_MIN), PIECE_BYTES_MAX)

    def due_at(self, owner: str, size: int, now: float) -> float:
        """From when on the owner may send its next `size` bytes; they are counted as sent."""
        if not self._bytes_per_s:
            return now
        self._free_at = {each: at for each, at in self._free_at.items() if at > now - ACTIVE_S}
        due = max(self._free_at.get(owner, now), now)
        others = len(self._free_at.keys() - {owner})
        self._free_at[owner] = due + size * (1 + others) / self._bytes_per_s
        return due
