"""Low-rank matrices beside a model's own (Hu et al. 2021, arXiv 2106.09685): y = W x + B A x.

Without the paper's factor alpha / r: it scales a learning rate, which the spec has already.
"""

import torch
from torch import Tensor, nn

from .selection import A, B, lora_targets
from .tensors import Layout


class WithLora(nn.Module):
    """Its parameters' names are the layout's: the submodule's, then `a` (rank, inputs) and `b` (outputs, rank)."""

    def __init__(self, own: nn.Module, a: tuple[int, ...], b: tuple[int, ...]) -> None:
        super().__init__()
        self.own = own
        self.a = nn.Parameter(torch.empty(a))
        self.b = nn.Parameter(torch.empty(b))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.own(x)
        return y + (x @ self.a.T) @ self.b.T


def add_lora(model: nn.Module, layout: Layout) -> None:
    """Put a WithLora in the place of each submodule that the layout has two matrices for; none: nothing happens.

    Raises:
        AttributeError: the model has no such submodule.
    """
    shapes = {tensor.name: tensor.shape for tensor in layout}
    for target in lora_targets(layout):
        parent, _, name = target.rpartition(".")
        own = model.get_submodule(target)
        setattr(model.get_submodule(parent), name, WithLora(own, shapes[target + A], shapes[target + B]))
