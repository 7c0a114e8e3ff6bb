"""Named float32 tensors as one flat vector: the layout that says where each lies.

Everything members must agree on to the bit works on flat numpy vectors: one pass over memory whatever the model, and
neither aggregation, codecs, checks nor digests need torch, so a node without it can check and store payloads. The
layout is known from the spec; a peer only ever names it by digest.
"""

import math
from typing import TYPE_CHECKING, Annotated

import msgspec
from blake3 import blake3

from shoal.transport.wire import Message, encode

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float32]  # (element_count,), little-endian, contiguous

DIMENSIONS_MAX = 8


class TensorShape(Message, frozen=True):
    """One named tensor."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    shape: Annotated[tuple[Annotated[int, msgspec.Meta(ge=1, le=2**34)], ...], msgspec.Meta(max_length=DIMENSIONS_MAX)]


Layout = tuple[TensorShape, ...]  # in the order of the flat vector


def element_count(layout: Layout) -> int:
    """Elements of the flat vector."""
    return sum(math.prod(tensor.shape) for tensor in layout)


def layout_digest(layout: Layout) -> bytes:
    """32 bytes that name a layout: its tensors' names, shapes and order."""
    return blake3(b"shoal/layout/1\0" + encode(layout)).digest()


def views(layout: Layout, flat: "Vector") -> "dict[str, NDArray[np.float32]]":
    """Each tensor of `flat` in its shape, sharing memory with it."""
    parts: dict[str, NDArray[np.float32]] = {}
    start = 0
    for tensor in layout:
        count = math.prod(tensor.shape)
        parts[tensor.name] = flat[start : start + count].reshape(tensor.shape)
        start += count
    return parts
