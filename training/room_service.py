"""Room for large vectors in files, so that a machine keeps in memory what it works on and no more. A shell.

A member whose whole model is trained has its state, for a moment the next one, and where it walks step by step one
more. Each is gone through from one end to the other, so where memory is short the system writes out what is not in use;
of memory that no file stands behind it could write out nothing but to swap, which laptops and rented machines lack.

Files are without a name from the beginning: none is left behind, however the process ends.
"""

import mmap
import os
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .tensors import Vector

FILE_BYTES_MIN: Final = 2**26  # what is smaller is never worth a file


def room(count: int, folder: Path) -> "Vector":
    """(count,) Values yet to be written; in memory if they are few, or if there is no room in `folder` either."""
    import numpy as np

    size = count * np.dtype(np.float32).itemsize
    if size < FILE_BYTES_MIN:
        return np.empty(count, np.float32)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            _reserve(file, size)
            return np.ndarray((count,), np.float32, buffer=mmap.mmap(file.fileno(), size))
    except OSError:
        return np.empty(count, np.float32)


def _reserve(file: IO[bytes], size: int) -> None:
    """Now, with an error to catch: who writes to a mapped file for which the disk has no room is killed."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    piece = bytes(2**20)  # macOS
    for start in range(0, size, len(piece)):
        file.write(piece[: size - start])
    file.flush()
