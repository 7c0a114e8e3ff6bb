"""Which of a language model's parameters are trained: by their names, for the field's models name theirs alike.

A parameter's layer is the first number in its name. A norm's gain is the weight of a submodule whose name tells of a
norm. What has no number and comes after the layers is the end of the model: the final norm, the head. No torch here.
"""

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .evaluator_settings import EvaluatorSettings
from .models import uniform
from .tensors import Layout, TensorShape

if TYPE_CHECKING:
    from .tensors import Vector

_NUMBER = re.compile(r"(?:^|\.)(\d+)\.")
_NORM = re.compile(r"(?:^|[._])(?:\w*norm\w*|ln(?:_\w+)?)\.weight$")
_QUERY_OR_VALUE = re.compile(r"\.(?:q|v|q_proj|v_proj)\.weight$")
A, B = ".a", ".b"  # names of LoRA's two matrices, behind that of the matrix they are added to


def choose(whole: Layout, settings: EvaluatorSettings) -> Layout | str:
    """The tensors to train of a model that has the tensors `whole`, in order; or why there are none."""
    train = settings.train or "last_norms"
    if train == "all":
        return whole
    if train == "lora":
        return _lora(whole, settings.rank) or "train = lora: this model has no projections q and v; choose another"
    layers = 1 + max((layer for tensor in whole if (layer := layer_of(tensor.name)) is not None), default=-1)
    first = max(layers - settings.layers, 0)
    wants_norms = train in ("norms", "last_norms")
    is_last = train in ("last_norms", "last_layers")
    chosen = tuple(
        tensor
        for index, tensor in enumerate(whole)
        if (_NORM.search(tensor.name) or not (wants_norms or layer_of(tensor.name) is None))
        and (not is_last or _is_behind(whole, index, first))
    )
    return chosen or f"train = {train}: no parameter of this model has such a name; choose another"


def layer_of(name: str) -> int | None:
    """The number of the layer that a parameter belongs to."""
    found = _NUMBER.search(name)
    return int(found[1]) if found else None


def first_layer(layout: Layout) -> int:
    """The first layer that a forward pass has to begin with when these parameters change; 0 if before any."""
    return min((layer for tensor in layout if (layer := layer_of(tensor.name)) is not None), default=0)


def lora_targets(layout: Layout) -> list[str]:
    """The submodules whose matrices LoRA's are added to."""
    return [tensor.name.removesuffix(A) for tensor in layout if tensor.name.endswith(A)]


def lora_start(layout: Layout, seed: int) -> "Vector":
    """(n,) A uniform with variance 1 / inputs, B zero: at first nothing is added (Hu et al. 2021, section 4.1)."""
    import numpy as np

    parts: list[Vector] = []
    for tensor in layout:
        count, inputs = math.prod(tensor.shape), tensor.shape[1]
        is_a = tensor.name.endswith(A)
        label = f"{seed}/{tensor.name}"
        parts.append(uniform(label, count, 1 / math.sqrt(inputs)) if is_a else np.zeros(count, np.float32))
    return np.concatenate(parts)


def _lora(whole: Layout, rank: int) -> Layout:
    chosen: list[TensorShape] = []
    for tensor in whole:
        if _QUERY_OR_VALUE.search(tensor.name) and len(tensor.shape) == 2:
            module = tensor.name.removesuffix(".weight")
            chosen += [
                TensorShape(module + A, (rank, tensor.shape[1])),
                TensorShape(module + B, (tensor.shape[0], rank)),
            ]
    return tuple(chosen)


def _is_behind(whole: Sequence[TensorShape], index: int, first: int) -> bool:
    """Whether a tensor is in layer `first` or later, or after the layers."""
    layer = layer_of(whole[index].name)
    if layer is not None:
        return layer >= first
    return any(layer_of(tensor.name) is not None for tensor in whole[:index])
