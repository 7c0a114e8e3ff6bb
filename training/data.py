"""Local texts by name, and which bytes of them a member trains on.

A text is bytes; its last 5% are the validation split, which nobody trains on. What comes before is cut into equal
contiguous pieces, and a piece belongs to the member with the highest hash of (piece, member): rendezvous hashing
(Thaler, Ravishankar 1998). Members with equal views get disjoint shards, and when one comes or goes only its own
pieces move.

Nothing here comes from a peer but the names in a spec, which are looked up, never opened as paths.
"""

import lzma
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]

VALIDATION_PERCENT = 5
FILE_PREFIX = "file:"  # "file:<BLAKE3 of its bytes in hex>": a text that every member has and names with `data_path`

# 38 plays of Shakespeare, 4.96 MB, in the public domain; shakespeare.txt.md says where from and how made.
SHAKESPEARE_BLAKE3 = "65f833c3f739fd9e6b1e6aaf0c8f711b71bfe7035ce582ea8bb6eab66679a82d"


def _shakespeare() -> bytes:
    packed = resources.files("shoal.training").joinpath("shakespeare.txt.xz").read_bytes()
    text = lzma.decompress(packed)
    if blake3(text).hexdigest() != SHAKESPEARE_BLAKE3:
        raise RuntimeError("shakespeare.txt.xz is not the file that Shoal was released with: install Shoal again")
    return text


TEXTS: dict[str, Callable[[], bytes]] = {"shakespeare": _shakespeare}


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """A swarm's data as one member sees it. `own` replaces the member's shard, never the validation split."""

    training: "Bytes"  # (bytes,)
    validation: "Bytes"  # (bytes,)
    pieces: int  # that `training` is cut into
    own: "Bytes | None"  # the member's own file, all of it


def file_name(path: Path) -> str | None:
    """The name under which a spec can ask every member for this very file, or None if it cannot be read."""
    try:
        return FILE_PREFIX + blake3(path.read_bytes()).hexdigest()
    except OSError:
        return None


def load(name: str, pieces: int, batch_bytes: int, own_path: Path | None) -> Corpus | str:
    """The corpus that a spec names, or why there is none.

    Args:
        batch_bytes: what one batch reads; a text whose pieces cannot fill a window, or a file smaller than this, is
            refused.
        own_path: the member's own text, if it has one.
    """
    import numpy as np

    own = None if own_path is None else _read_own(own_path, batch_bytes)
    if isinstance(own, str):
        return own
    if name.startswith(FILE_PREFIX):
        digest = name.removeprefix(FILE_PREFIX)
        if own is None or blake3(own.data).hexdigest() != digest:
            return f"this swarm trains on the file whose BLAKE3 is {digest}: name your copy of it with --data PATH"
        text, own = own, None
    elif name in TEXTS:
        text = np.frombuffer(TEXTS[name](), np.uint8)
    else:
        return f"data {name!r} is not known here; known: {', '.join(sorted(TEXTS))}, {FILE_PREFIX}<blake3 hex>"
    cut = len(text) - len(text) * VALIDATION_PERCENT // 100
    if min(cut, len(text) - cut) < batch_bytes:
        return f"data {name!r} has {len(text)} bytes: too few for batches of {batch_bytes} and a validation split of 5%"
    return Corpus(text[:cut], text[cut:], pieces, own)


def _read_own(path: Path, batch_bytes: int) -> "Bytes | str":
    import numpy as np

    try:
        size = path.stat().st_size
        if size == 0:
            return f"data file {path} is empty: name a text of at least {batch_bytes} bytes"
        if size < batch_bytes:
            return f"data file {path} has {size} bytes, less than one batch of {batch_bytes}: give a longer text"
        return np.memmap(path, np.uint8, "r")  # maps rather than reads: the file may be larger than memory
    except OSError as error:
        return f"data file {path} cannot be read: {error.strerror}"


def training_bytes(name: str) -> bytes:
    """What members train on of a text known by name."""
    text = TEXTS[name]()
    return text[: len(text) - len(text) * VALIDATION_PERCENT // 100]


def own_pieces(pieces: int, member: str, members: Sequence[str]) -> tuple[int, ...]:
    """The pieces `member` trains on, sorted. Disjoint among `members`, together all of them.

    Where chance leaves a member without any (likely only when members are not far fewer than pieces) it gets the one
    piece it came closest to owning: shared with its owner, but better than an idle member.
    """

    def rank(piece: int, peer: str) -> bytes:
        return blake3(f"shoal/piece/{piece}/{peer}".encode()).digest()

    owned = tuple(p for p in range(pieces) if max(members, key=lambda peer: rank(p, peer)) == member)
    return owned or (max(range(pieces), key=lambda piece: rank(piece, member)),)


def shard(corpus: Corpus, member: str, members: Sequence[str]) -> "list[Bytes]":
    """The contiguous texts a member draws its windows from, of equal length."""
    if corpus.own is not None:
        return [corpus.own]
    length = len(corpus.training) // corpus.pieces
    return [corpus.training[p * length : (p + 1) * length] for p in own_pieces(corpus.pieces, member, members)]


def batch(texts: "Sequence[Bytes]", seed: int, step: int, windows: int, length: int) -> "Bytes":
    """`windows` windows of `length` bytes, drawn uniformly: a function of (seed, step), so batches can be drawn again.

    Returns:
        (windows, length) uint8, a copy.
    """
    import numpy as np

    draws = np.random.Philox(key=seed, counter=step << 64).random_raw(2 * windows)  # 2 x 64 bits each: bias below 2^-32
    rows = np.empty((windows, length), np.uint8)
    for row in range(windows):
        text = texts[int(draws[2 * row]) % len(texts)]
        start = int(draws[2 * row + 1]) % (len(text) - length + 1)
        rows[row] = text[start : start + length]
    return rows


def validation_windows(corpus: Corpus, windows: int, length: int) -> "Bytes":
    """(windows, length) uint8: windows spread evenly over the validation split, the same on every member."""
    import numpy as np

    last = len(corpus.validation) - length
    starts = [last * row // max(windows - 1, 1) for row in range(windows)]
    return np.stack([corpus.validation[start : start + length] for start in starts])
