"""What the first layers of a model make of a task's texts, computed once on a machine and kept on disk. A shell.

Where only the last layers are trained, what comes into them never changes. It is cut into chunks; processes that start
at once each take a chunk that nobody works on, and wait for those of others. The operating system holds their locks, so
a chunk whose maker was killed is made by whoever comes next. A file that is not what it was when it was written (its
hash stands in front) is made again.

The files are this machine's own; nothing in them comes from a peer.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from blake3 import blake3

from shoal.transport.identity import IdentityError, lock_directory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Activations = NDArray[np.float32]  # (tokens, width)

VERSION: Final = 1  # of what is computed and how it is stored
CHUNK_TEXTS: Final = 25  # about a second of one core for SmolLM2-135M
DIGEST_BYTES: Final = 32
FOLDERS_MAX: Final = 4  # tasks whose activations are kept; 27 MB each for 600 short sentences and SmolLM2-135M
POLL_S: Final = 0.1

Progress = Callable[[int, int], None]  # (texts done, texts in all), from the thread that blocks


@dataclass(frozen=True, slots=True)
class Keep:
    """Where activations are kept, and who hears how many there are by now."""

    folder: Path
    progress: Progress


@dataclass(frozen=True, slots=True)
class Trunk:
    """What is to be had.

    Attributes:
        name: stands for the model, the texts and the layers.
        compute: (tokens of these texts, width) of some texts, by number; the last resort.
    """

    name: str
    lengths: Sequence[int]  # tokens of each text
    width: int
    compute: "Callable[[range], Activations]"


def trunk_name(*parts: bytes) -> str:
    """The name of what these parts (the model's hash, the texts, the layers) determine."""
    hashed = blake3(b"shoal/trunk/%d\0" % VERSION)
    for part in parts:
        hashed.update(len(part).to_bytes(8, "little") + part)
    return hashed.hexdigest(16)


def activations(trunk: Trunk, keep: Keep) -> "list[Activations]":
    """(tokens, width) of each text, mapped from disk where there is room for it. Blocks."""
    texts = len(trunk.lengths)
    chunks = [range(first, min(first + CHUNK_TEXTS, texts)) for first in range(0, texts, CHUNK_TEXTS)]
    _make_room(keep.folder, trunk.name)
    ready: dict[int, Activations] = {}
    while len(ready) < len(chunks):
        before = len(ready)
        for number in sorted(set(range(len(chunks))) - set(ready)):
            obtained = _obtain(trunk, keep.folder / trunk.name, chunks[number])
            if obtained is not None:
                ready[number] = obtained
                keep.progress(sum(len(chunks[each]) for each in ready), texts)
        if len(ready) == before:
            time.sleep(POLL_S)  # others make what is missing
    parts: list[Activations] = []
    for number, chunk in enumerate(chunks):
        start = 0
        for text in chunk:
            parts.append(ready[number][start : start + trunk.lengths[text]])
            start += trunk.lengths[text]
    return parts


def _obtain(trunk: Trunk, folder: Path, chunk: range) -> "Activations | None":
    """A chunk from disk, or made here; None while another process makes it."""
    place = folder / f"{chunk.start:06}"
    path = place / "activations"
    shape = sum(trunk.lengths[text] for text in chunk), trunk.width
    found = _mapped(path, shape)
    if found is not None:
        return found
    try:
        lock = lock_directory(place)
    except IdentityError as error:
        if isinstance(error.__cause__, BlockingIOError):
            return None
        return trunk.compute(chunk)  # where nothing can be locked nothing can be kept either
    with lock:
        found = _mapped(path, shape)  # written while we came to the lock
        return _kept(path, trunk.compute(chunk)) if found is None else found


def _mapped(path: Path, shape: tuple[int, int]) -> "Activations | None":
    """The file's activations if it is whole."""
    import numpy as np

    try:
        if path.stat().st_size != DIGEST_BYTES + 4 * shape[0] * shape[1]:
            return None
        stored = np.memmap(path, np.uint8, "r")
    except OSError:
        return None
    if blake3(stored[DIGEST_BYTES:].data).digest() != stored[:DIGEST_BYTES].tobytes():
        return None
    return stored[DIGEST_BYTES:].view("<f4").reshape(shape)


def _kept(path: Path, computed: "Activations") -> "Activations":
    """The same, from disk where it could be written."""
    body = computed.astype("<f4", order="C").tobytes()
    fresh = path.with_suffix(".new")
    try:
        fresh.write_bytes(blake3(body).digest() + body)
        fresh.replace(path)
    except OSError:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
        return computed
    found = _mapped(path, (computed.shape[0], computed.shape[1]))
    return computed if found is None else found


def _make_room(folder: Path, name: str) -> None:
    """Delete what was begun longest ago, so that with `name` there are no more than FOLDERS_MAX."""
    try:
        others = [each for each in folder.iterdir() if each.is_dir() and each.name != name]
        others.sort(key=lambda each: each.stat().st_mtime)
    except OSError:
        return
    for each in others[: max(0, len(others) - FOLDERS_MAX + 1)]:
        shutil.rmtree(each, ignore_errors=True)
