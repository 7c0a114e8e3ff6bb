"""A small GPT over bytes: RMSNorm without gains, rotary positions, squared ReLU, tied embedding.

The parameters are views of one flat vector, in the order of `models.gpt_layout`, so that a model costs nothing to
build and the inner optimizer is one fused operation over all of it.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .models import GptSize, gpt_layout

ROTARY_BASE = 10_000.0


@dataclass(slots=True)
class Cache:
    """Keys and values of what a layer has seen, for sampling."""

    keys: Tensor  # (batch, heads, seen, head width)
    values: Tensor  # the same


def norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.size(-1),))


def rotary(first: int, count: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines (count, width / 2) of positions `first`, ... (Su et al. 2021)."""
    frequencies = ROTARY_BASE ** (-torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)
    angles = torch.outer(torch.arange(first, first + count, device=device, dtype=torch.float32), frequencies)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (batch, heads, time, head width), its halves taken as the two coordinates of each plane."""
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).type_as(x)


class Attention(nn.Module):
    def __init__(self, size: GptSize, qkv: Tensor, out: Tensor) -> None:
        super().__init__()
        self.heads = size.heads
        self.qkv = nn.Parameter(qkv)  # (3 d, d)
        self.out = nn.Parameter(out)  # (d, d)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache | None) -> Tensor:
        batch, time, width = x.shape
        q, k, v = F.linear(x, self.qkv).view(batch, time, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)  # (batch, heads, time, head width)
        is_causal = True
        if cache is not None:
            is_causal = cache.keys.size(2) == 0  # later: one byte, which may see all before it
            k = cache.keys = torch.cat([cache.keys, k], dim=2)
            v = cache.values = torch.cat([cache.values, v], dim=2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)
        return F.linear(y.transpose(1, 2).reshape(batch, time, width), self.out)


class Mlp(nn.Module):
    def __init__(self, up: Tensor, down: Tensor) -> None:
        super().__init__()
        self.up = nn.Parameter(up)  # (4 d, d)
        self.down = nn.Parameter(down)  # (d, 4 d)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.relu(F.linear(x, self.up)).square(), self.down)


class Layer(nn.Module):
    def __init__(self, attention: Attention, mlp: Mlp) -> None:
        super().__init__()
        self.attention = attention
        self.mlp = mlp

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache | None) -> Tensor:
        x = x + self.attention(norm(x), cos, sin, cache)
        y: Tensor = x + self.mlp(norm(x))
        return y


class Gpt(nn.Module):
    """Its parameters share memory with `flat` (n,), and their gradients with `gradient` (n,) where one is given."""

    def __init__(self, size: GptSize, flat: Tensor, gradient: Tensor | None = None) -> None:
        super().__init__()
        parts = _views(size, flat)
        self.heads = size.heads
        self.head_width = size.width // size.heads
        self.embedding = nn.Parameter(parts["embedding"])  # (256, d)
        self.layers = nn.ModuleList()
        for layer in range(size.layers):
            own = f"layers.{layer}."
            attention = Attention(size, parts[own + "attention.qkv"], parts[own + "attention.out"])
            self.layers.append(Layer(attention, Mlp(parts[own + "mlp.up"], parts[own + "mlp.down"])))
        if gradient is not None:
            gradients = _views(size, gradient)
            for name, parameter in self.named_parameters():
                parameter.grad = gradients[name]

    def forward(self, tokens: Tensor, caches: list[Cache] | None = None, first: int = 0) -> Tensor:
        """Logits (batch, time, 256) for tokens (batch, time) at positions `first`, ..."""
        cos, sin = rotary(first, tokens.size(1), self.head_width, tokens.device)
        x = norm(F.embedding(tokens, self.embedding))
        for index, layer in enumerate(self.layers):
            x = layer(x, cos, sin, caches[index] if caches else None)
        return F.linear(norm(x), self.embedding)


def loss(model: Gpt, windows: Tensor) -> Tensor:
    """Mean cross-entropy in nats per byte over windows (batch, context + 1) of int64."""
    logits = model(windows[:, :-1])
    return F.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten())


@torch.no_grad()
def generate(
    model: Gpt, prompt: bytes, count: int, context: int, temperature: float, generator: torch.Generator
) -> bytes:
    """`count` bytes that continue `prompt`, each sampled from what the last `context` bytes before it make likely.

    Positions are relative (rotary), so once the cache is full its oldest entry is dropped. `generator` is a CPU one;
    temperature 0 takes the likeliest byte.
    """
    device = model.embedding.device
    empty = torch.empty(1, model.heads, 0, model.head_width, device=device)
    caches = [Cache(empty, empty) for _ in model.layers]
    seen = list((prompt or b"\n")[-context:])
    tokens = torch.tensor([seen], device=device)
    position = 0
    output = bytearray()
    for _ in range(count):
        logits = model(tokens, caches, position)[0, -1].float().cpu()  # (256,)
        position += tokens.size(1)
        token = sample(logits, temperature, generator)
        output.append(token)
        tokens = torch.tensor([[token]], device=device)
        for cache in caches:
            cache.keys, cache.values = cache.keys[:, :, -context + 1 :], cache.values[:, :, -context + 1 :]
    return bytes(output)


def sample(logits: Tensor, temperature: float, generator: torch.Generator) -> int:
    """A token, from logits (vocabulary,) on the CPU; temperature 0 takes the likeliest."""
    if temperature <= 0:
        return int(logits.argmax())
    return int(torch.multinomial((logits / temperature).softmax(0), 1, generator=generator))


def _views(size: GptSize, flat: Tensor) -> dict[str, Tensor]:
    parts: dict[str, Tensor] = {}
    start = 0
    for tensor in gpt_layout(size):
        count = math.prod(tensor.shape)
        parts[tensor.name] = flat[start : start + count].view(tensor.shape)
        start += count
    return parts
