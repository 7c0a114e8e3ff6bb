"""The built-in models by name: their sizes, tensors, first values, and the memory that training them takes. No torch
is needed here.

All are byte-level GPTs (gpt.py). What a malicious peer may send: a spec with any name and numbers. Names not in the
table are refused, and what the numbers would cost is computed before anything is allocated.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blake3 import blake3

from .tensors import Layout, TensorShape, element_count

if TYPE_CHECKING:
    from .tensors import Vector

VOCABULARY = 256  # bytes
EMBEDDING_STD = 0.02
TORCH_BYTES = 400 * 2**20  # the interpreter with torch loaded and its allocator's slack; measured 250 to 380 MB


@dataclass(frozen=True, slots=True)
class GptSize:
    """d = width; each layer holds 12 d^2 parameters, the tied embedding 256 d."""

    width: int
    layers: int
    heads: int


SIZES: dict[str, GptSize] = {
    "gpt-0.2m": GptSize(64, 4, 2),  # 212,992 parameters
    "gpt-0.8m": GptSize(128, 4, 4),  # 819,200
    "gpt-3m": GptSize(256, 4, 4),  # 3,211,264
    "gpt-11m": GptSize(384, 6, 6),  # 10,715,136
    "gpt-25m": GptSize(512, 8, 8),  # 25,296,896
    "gpt-124m": GptSize(832, 15, 13),  # 124,813,312
}


def gpt_layout(size: GptSize) -> Layout:
    """The tensors of a GPT, in order."""
    d = size.width
    tensors = [TensorShape("embedding", (VOCABULARY, d))]
    for layer in range(size.layers):
        tensors += [
            TensorShape(f"layers.{layer}.attention.qkv", (3 * d, d)),
            TensorShape(f"layers.{layer}.attention.out", (d, d)),
            TensorShape(f"layers.{layer}.mlp.up", (4 * d, d)),
            TensorShape(f"layers.{layer}.mlp.down", (d, 4 * d)),
        ]
    return tuple(tensors)


def parameter_count(size: GptSize) -> int:
    return element_count(gpt_layout(size))


def gpt_start(size: GptSize, seed: int) -> "Vector":
    """(n,) float32: the first values, the same bits on every machine.

    All are uniform. Matrices that read have variance 1 / fan-in; the embedding has a standard deviation of 0.02; those
    that write into the residual stream have 0.02 / sqrt(2 layers), as in GPT-2 (Radford et al. 2019).
    """
    import numpy as np

    layout = gpt_layout(size)
    parts: list[Vector] = []
    for tensor in layout:
        count = math.prod(tensor.shape)
        parts.append(uniform(f"{seed}/{tensor.name}", count, _std(tensor, size.layers)))
    return np.concatenate(parts)


def _std(tensor: TensorShape, layers: int) -> float:
    if tensor.name == "embedding":
        return EMBEDDING_STD
    if tensor.name.endswith((".out", ".down")):
        return EMBEDDING_STD / math.sqrt(2 * layers)
    return 1 / math.sqrt(tensor.shape[1])


def uniform(label: str, count: int, std: float) -> "Vector":
    """(count,) float32, uniform around 0, the same bits on every machine.

    Philox's raw integers (Salmon et al. 2011) are the same everywhere; 24 of their bits are exact in float32, and one
    multiplication by a constant is one rounding. torch.randn and its like differ between instruction sets.
    """
    import numpy as np

    key = int.from_bytes(blake3(b"shoal/start/1\0" + label.encode()).digest(16), "little")
    raw = np.random.Philox(key=key).random_raw(-(-count // 2)).astype("<u8").view("<u4")[:count]
    centred = (raw >> np.uint32(8)).astype(np.int32) - np.int32(2**23)  # [-2^23, 2^23)
    return centred.astype(np.float32) * np.float32(std * math.sqrt(3) / 2**23)


def memory_bytes(size: GptSize, batch_size: int, context: int) -> int:
    """An estimate from above of what a member that trains this needs, torch included.

    Per parameter 40 bytes: the state and its successor (16), the inner copy and its gradient (8), AdamW's moments (8),
    the pseudo-gradient and its payload (8). Per token, what the backward pass keeps of each layer (about 28 d float32)
    and of the logits.
    """
    tokens = batch_size * context
    activations = 4 * tokens * (28 * size.width * size.layers + 4 * VOCABULARY)
    return TORCH_BYTES + 40 * parameter_count(size) + activations
