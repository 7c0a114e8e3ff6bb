"""SmolLM2-135M as a torch module: a Llama (Touvron et al. 2023) with grouped-query attention and a tied embedding.

Sentences of different lengths go through it packed, one behind the other: nothing but attention sees that they are
several, and no time goes into padding. Rotary positions turn neighbouring pairs of coordinates, for that is how the
file's rows are ordered.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import smollm_file as sizes
from .gpt import sample

Kind = TypeVar("Kind", bound=nn.Module)

HEAD_ROWS = 4096  # of the tied head at once, where all of its logits are wanted


@dataclass(slots=True)
class Cache:
    """Keys and values (1, key heads, seen, head width) of what a layer has seen of one text."""

    keys: Tensor
    values: Tensor


class Packing:
    """Where the tokens of several texts lie that are packed into one row of tokens."""

    def __init__(self, lengths: Sequence[int], device: torch.device, first: int = 0) -> None:
        counts = torch.tensor(lengths)
        starts = counts.cumsum(0) - counts
        self.text = torch.repeat_interleave(torch.arange(len(lengths)), counts).to(device)  # (tokens,)
        place = torch.arange(int(counts.sum())) - torch.repeat_interleave(starts, counts)
        self.place = place.to(device)  # (tokens,) in its text
        self.last = (starts + counts - 1).to(device)  # (texts,) where each one's last token is
        self.texts, self.longest = len(lengths), int(counts.max())
        # In float64 and on the CPU: an angle of thousands of radians has few good digits in float32.
        exponents = torch.arange(0, sizes.HEAD_WIDTH, 2, dtype=torch.float64) / sizes.HEAD_WIDTH
        angles = torch.outer(place.double() + first, sizes.ROTARY_BASE**-exponents)[:, None]
        self.cos, self.sin = angles.cos().float().to(device), angles.sin().float().to(device)  # (tokens, 1, 32)


def rotate(x: Tensor, packing: Packing) -> Tensor:
    """x (tokens, heads, head width); coordinates 2i and 2i + 1 are a plane."""
    a, b = x[..., 0::2], x[..., 1::2]
    turned = a * packing.cos - b * packing.sin, a * packing.sin + b * packing.cos
    return torch.stack(turned, dim=-1).flatten(-2)


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(sizes.WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (sizes.WIDTH,), self.weight, sizes.NORM_EPSILON)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        shared = sizes.KEY_HEADS * sizes.HEAD_WIDTH
        self.q = linear(sizes.WIDTH, sizes.WIDTH)
        self.k = linear(sizes.WIDTH, shared)
        self.v = linear(sizes.WIDTH, shared)
        self.out = linear(sizes.WIDTH, sizes.WIDTH)

    def forward(self, x: Tensor, packing: Packing, cache: Cache | None) -> Tensor:
        q = rotate(self.q(x).view(len(x), sizes.HEADS, sizes.HEAD_WIDTH), packing)
        k = rotate(self.k(x).view(len(x), sizes.KEY_HEADS, sizes.HEAD_WIDTH), packing)
        v = self.v(x).view(len(x), sizes.KEY_HEADS, sizes.HEAD_WIDTH)
        q, k, v = (_apart(each, packing) for each in (q, k, v))
        is_causal = True
        if cache is not None:
            is_causal = cache.keys.size(2) == 0  # later: one token, which may see all before it
            k = cache.keys = torch.cat([cache.keys, k], dim=2)
            v = cache.values = torch.cat([cache.values, v], dim=2)
        # Causal, and what fills up is at the end of each text: no token sees it.
        y = F.scaled_dot_product_attention(q, k, v, is_causal=is_causal, enable_gqa=True)
        together: Tensor = self.out(y.transpose(1, 2)[packing.text, packing.place].flatten(1))
        return together


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = linear(sizes.WIDTH, sizes.MLP_WIDTH)
        self.up = linear(sizes.WIDTH, sizes.MLP_WIDTH)
        self.down = linear(sizes.MLP_WIDTH, sizes.WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return y


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = Norm()
        self.attention = Attention()
        self.mlp_norm = Norm()
        self.mlp = Mlp()

    def forward(self, x: Tensor, packing: Packing, cache: Cache | None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), packing, cache)
        y: Tensor = x + self.mlp(self.mlp_norm(x))
        return y


class SmolLm(nn.Module):
    """The layers `first`, ..., `stop` - 1 of it, under their numbers in the whole. Its values are not set."""

    def __init__(self, first: int = 0, stop: int = sizes.LAYERS) -> None:
        super().__init__()
        self.embedding = _unset(nn.Embedding, sizes.VOCABULARY, sizes.WIDTH)
        self.layers = nn.ModuleDict({str(layer): Layer() for layer in range(first, stop)})
        self.norm = Norm()

    def enter(self, tokens: Tensor) -> Tensor:
        """(tokens, width) what the first layer sees."""
        x: Tensor = self.embedding(tokens)
        return x

    def forward(self, x: Tensor, packing: Packing, caches: Sequence[Cache] | None = None) -> Tensor:
        """(tokens, width) after the layers that are here; x (tokens, width) is what the first of them sees."""
        for index, layer in enumerate(self.layers.values()):
            x = layer(x, packing, caches[index] if caches else None)
        return x

    def logits(self, x: Tensor, tokens: Tensor) -> Tensor:
        """(texts, len(tokens)) of these tokens to come next; x (texts, width) are the last layer's."""
        y: Tensor = self.norm(x)
        return F.linear(y, self.embedding(tokens))


def linear(inputs: int, outputs: int) -> nn.Linear:
    return _unset(nn.Linear, inputs, outputs, bias=False)


@torch.no_grad()
def generate(model: SmolLm, prompt: list[int], temperature: float, generator: torch.Generator) -> Iterator[int]:
    """The tokens that continue `prompt`, each sampled from all that came before, until the model ends its text.

    `model` is the whole one; `generator` is a CPU one; temperature 0 takes the likeliest token.
    """
    device = model.embedding.weight.device
    empty = torch.empty(1, sizes.KEY_HEADS, 0, sizes.HEAD_WIDTH, device=device)
    caches = [Cache(empty, empty) for _ in model.layers]
    everything = torch.split(torch.arange(sizes.VOCABULARY, device=device), HEAD_ROWS)
    tokens, seen = prompt[-sizes.CONTEXT // 2 :] or [sizes.END], 0
    while seen + len(tokens) <= sizes.CONTEXT:
        packing = Packing([len(tokens)], device, seen)
        x = model(model.enter(torch.tensor(tokens, device=device)), packing, caches)[-1:]
        seen += len(tokens)
        token = sample(torch.cat([model.logits(x, part)[0] for part in everything]).cpu(), temperature, generator)
        if token in (sizes.END, sizes.END_OF_TURN):
            return
        yield token
        tokens = [token]


def _unset(kind: type[Kind], *args: int, **kwargs: bool) -> Kind:
    """A module without values: to initialize what is overwritten at once would take a second."""
    made: Kind = cast(Any, nn.utils).skip_init(kind, *args, **kwargs)
    return made


def _apart(x: Tensor, packing: Packing) -> Tensor:
    """(texts, heads, longest, head width) from packed (tokens, heads, head width); the rest is zeros."""
    filled = x.new_zeros(packing.texts, packing.longest, x.size(1), x.size(2))
    filled[packing.text, packing.place] = x
    return filled.transpose(1, 2)
