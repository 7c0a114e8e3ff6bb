"""Forward passes of any torch module at theta + scale z, with no second copy of theta.

The module's trained parameters are empty. Each submodule that owns some gets its own values just before its forward,
computed from the flat vector into scratch memory, and loses them just after: at any moment there is the flat vector,
and beside it room for what submodules under way at once own. That is one matrix where a submodule owns one (torch's and
transformers' do); the embedded GPT's attention and perceptron own two. It is one piece, kept: allocated anew for each,
activations in between, malloc would let a model of 538 MB grow by 150 MB.

Of an embedding only the rows that a batch looks up are computed.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from .directions import perturbed
from .tensors import Layout, element_count

if TYPE_CHECKING:
    from .tensors import Vector


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """Where to evaluate: `parameters` + `scale` z, z being the direction that `key` names; or `parameters` alone."""

    parameters: "Vector"  # (n,)
    key: bytes | None = None
    scale: np.float32 | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Slot:
    """A trained parameter and where it lies in the flat vector."""

    parameter: nn.Parameter
    shape: tuple[int, ...]
    tensor: int  # its number in the layout
    start: int
    stop: int


class Perturbing:
    """Takes the trained parameters of `model` from it; `at` gives them back for forward passes. One thread at a time.

    Raises:
        KeyError: the model has no parameter that the layout names.
    """

    def __init__(self, model: nn.Module, layout: Layout) -> None:
        self._point: Point | None = None
        self._count = element_count(layout)
        slots = _slots(model, layout)
        self._scratch = np.empty(self._prepare(model, slots), np.float32)
        self._used = 0  # elements of it, by the submodules under way
        for slot in slots.values():
            _empty(slot)

    @contextmanager
    def at(self, point: Point) -> Generator[None]:
        """Inside of the block the model's forward passes are those at `point`."""
        if point.parameters.shape != (self._count,):
            raise ValueError(f"{point.parameters.shape} parameters; the layout has {self._count}")
        self._point, self._used = point, 0
        try:
            yield
        finally:
            self._point = None

    def _prepare(self, module: nn.Module, slots: dict[int, _Slot]) -> int:
        """Hook this module and those in it; how many elements of scratch they need at once."""
        inner = max((self._prepare(child, slots) for child in module.children()), default=0)
        own = [slots[id(each)] for each in module.parameters(recurse=False) if id(each) in slots]
        if not own:
            return inner
        if type(module) is nn.Embedding and module.max_norm is None:
            module.padding_idx = None  # it is for gradients; a row's number is not its number among those looked up
            module.register_forward_pre_hook(_bound(self._enter_rows, own))
            module.register_forward_hook(_bound(self._leave_rows, own), always_call=True)
            return inner
        module.register_forward_pre_hook(_bound(self._enter, own))
        module.register_forward_hook(_bound(self._leave, own), always_call=True)
        return inner + sum(slot.stop - slot.start for slot in own)

    def _enter(self, own: list[_Slot], args: tuple[Any, ...]) -> None:
        for slot in own:
            size = slot.stop - slot.start
            values = self._scratch[self._used : self._used + size]
            self._used += size
            self._fill(slot, 0, values)
            slot.parameter.data = torch.as_tensor(values).view(slot.shape).to(slot.parameter.device)

    def _leave(self, own: list[_Slot], args: tuple[Any, ...]) -> None:
        self._used -= sum(slot.stop - slot.start for slot in own)
        self._leave_rows(own, args)

    def _leave_rows(self, own: list[_Slot], args: tuple[Any, ...]) -> None:
        for slot in own:
            _empty(slot)

    def _enter_rows(self, own: list[_Slot], args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The rows that are looked up become the whole embedding, and the tokens their numbers among them."""
        (slot,) = own
        width = slot.shape[1]
        numbers, places = np.unique(args[0].cpu().numpy(), return_inverse=True)
        values = np.empty((len(numbers), width), np.float32)
        breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
        for part in np.split(np.arange(len(numbers)), breaks):  # neighbours at once
            self._fill(slot, int(numbers[part[0]]) * width, values[part[0] : part[-1] + 1].reshape(-1))
        slot.parameter.data = torch.as_tensor(values).to(slot.parameter.device)
        return (torch.as_tensor(places).view_as(args[0]).to(args[0].device), *args[1:])

    def _fill(self, slot: _Slot, first: int, out: "Vector") -> None:
        """The values from element `first` of a parameter."""
        if self._point is None:
            raise RuntimeError("the trained parameters are there only inside of `with perturbing.at(...)`")
        begin = slot.start + first
        values = self._point.parameters[begin : begin + len(out)]
        if self._point.key is None or self._point.scale is None:
            out[:] = values
        else:
            perturbed(values, self._point.key, slot.tensor, self._point.scale, out, first)


def _slots(model: nn.Module, layout: Layout) -> dict[int, _Slot]:
    named = dict(model.named_parameters())
    slots: dict[int, _Slot] = {}
    start = 0
    for number, tensor in enumerate(layout):
        stop = start + element_count((tensor,))
        slots[id(named[tensor.name])] = _Slot(named[tensor.name], tensor.shape, number, start, stop)
        start = stop
    return slots


def _empty(slot: _Slot) -> None:
    slot.parameter.requires_grad_(False)
    slot.parameter.data = torch.empty(0, device=slot.parameter.device)


def _bound(call: Callable[[list[_Slot], tuple[Any, ...]], Any], own: list[_Slot]) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], *output: Any) -> Any:
        return call(own, args)

    return hook
