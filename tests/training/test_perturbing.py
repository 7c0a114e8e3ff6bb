"""Forward passes at theta + scale z are those of a model that holds these values, and theta stays as it is."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shoal.training.directions import signs
from shoal.training.gpt import Gpt, loss
from shoal.training.lora import add_lora
from shoal.training.models import GptSize, gpt_layout, gpt_start, uniform
from shoal.training.perturbing import Perturbing, Point
from shoal.training.tensors import Layout, TensorShape, element_count, views

KEY = bytes(range(32))
SCALE = np.float32(0.25)


class Tied(nn.Module):
    """An embedding that is also the head, a norm with a bias, and a list of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(600, 24, padding_idx=599)
        self.layers = nn.ModuleList([nn.Linear(24, 24) for _ in range(2)])
        self.norm = nn.LayerNorm(24)
        self.head = nn.Linear(24, 600, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = x + layer(x).relu()
        logits: Tensor = self.head(self.norm(x))
        return logits


TOKENS = torch.tensor([[5, 6, 7, 599, 0, 300, 5]])


def layout_of(model: nn.Module, *names: str) -> Layout:
    return tuple(
        TensorShape(name, tuple(parameter.shape))
        for name, parameter in model.named_parameters()
        if not names or name in names
    )


def values_of(model: nn.Module, layout: Layout) -> np.ndarray:
    named = dict(model.named_parameters())
    return np.concatenate([named[tensor.name].detach().numpy().ravel() for tensor in layout])


@torch.no_grad()
def by_hand(model: nn.Module, layout: Layout, values: np.ndarray, scale: np.float32) -> Tensor:
    """What the model gives when it is filled with theta + scale z, z made by the dumb rule."""
    named = dict(model.named_parameters())
    for number, (name, part) in enumerate(views(layout, values).items()):
        z = signs(KEY, number, 0, part.size).reshape(part.shape)
        named[name].copy_(torch.as_tensor(part + scale * z.astype(np.float32)))
    out: Tensor = model(TOKENS)
    return out


@torch.no_grad()
def perturbed(perturbing: Perturbing, model: nn.Module, point: Point) -> Tensor:
    with perturbing.at(point):
        out: Tensor = model(TOKENS)
    return out


@pytest.mark.parametrize("names", [(), ("norm.weight", "layers.1.weight"), ("embedding.weight",)])
def test_a_perturbed_pass_is_that_of_a_model_with_these_values(names: tuple[str, ...]) -> None:
    model, twin = Tied(), Tied()
    twin.load_state_dict(model.state_dict())
    layout = layout_of(model, *names)
    values = values_of(model, layout)
    with torch.no_grad():
        plain = model(TOKENS)
    perturbing = Perturbing(model, layout)
    for scale in (SCALE, -SCALE):
        assert torch.equal(
            perturbed(perturbing, model, Point(values, KEY, scale)), by_hand(twin, layout, values, scale)
        )
    assert torch.equal(perturbed(perturbing, model, Point(values)), plain)


def test_the_flat_vector_may_be_read_only_and_stays_as_it_is() -> None:
    model = Tied()
    layout = layout_of(model)
    values = values_of(model, layout)
    before = values.copy()
    values.flags.writeable = False
    perturbed(Perturbing(model, layout), model, Point(values, KEY, SCALE))
    assert np.array_equal(values, before)


def test_between_passes_the_model_holds_nothing_of_what_is_trained_and_says_so() -> None:
    model = Tied()
    layout = layout_of(model, "norm.weight", "layers.0.weight")
    values = values_of(model, layout)
    perturbing = Perturbing(model, layout)
    perturbed(perturbing, model, Point(values, KEY, SCALE))
    assert model.norm.weight.numel() == 0
    assert sum(parameter.numel() for parameter in model.parameters()) == 600 * 24 + 24 + 24 * 25 + 24
    with pytest.raises(RuntimeError, match="inside of"):
        model(TOKENS)
    with pytest.raises(ValueError, match="the layout has"), perturbing.at(Point(values[1:])):
        pass


def test_a_pass_that_fails_leaves_the_next_one_right() -> None:
    model = Tied()
    layout = layout_of(model)
    values = values_of(model, layout)
    with torch.no_grad():
        plain = model(TOKENS)
    perturbing = Perturbing(model, layout)
    with pytest.raises(RuntimeError), perturbing.at(Point(values)):
        model.layers[0](torch.zeros(1, 5))
    assert torch.equal(perturbed(perturbing, model, Point(values)), plain)


def test_a_layout_of_another_model_is_refused() -> None:
    with pytest.raises(KeyError):
        Perturbing(Tied(), (TensorShape("layers.7.weight", (24, 24)),))


def test_the_embedded_gpt_gives_the_losses_of_its_perturbed_values() -> None:
    size = GptSize(32, 2, 2)
    layout, values = gpt_layout(size), gpt_start(size, 3)
    windows = torch.randint(0, 256, (3, 20), generator=torch.Generator().manual_seed(1))
    model = Gpt(size, torch.empty(len(values)))
    perturbing = Perturbing(model, layout)
    moved = np.concatenate(
        [
            part.ravel() + SCALE * signs(KEY, number, 0, part.size).astype(np.float32)
            for number, part in enumerate(views(layout, values).values())
        ]
    )
    with torch.no_grad():
        expected = loss(Gpt(size, torch.as_tensor(moved)), windows)
        with perturbing.at(Point(values, KEY, SCALE)):
            assert torch.equal(loss(model, windows), expected)


def test_lora_adds_nothing_while_b_is_zero_and_the_product_afterwards() -> None:
    model = Tied()
    layout: Layout = (TensorShape("layers.1.a", (2, 24)), TensorShape("layers.1.b", (24, 2)))
    with torch.no_grad():
        plain = model(TOKENS)
    weight = model.state_dict()["layers.1.weight"].clone()
    add_lora(model, layout)
    perturbing = Perturbing(model, layout)
    values = np.concatenate([uniform("a", 48, 1.0), np.zeros(48, np.float32)])
    assert torch.equal(perturbed(perturbing, model, Point(values)), plain)
    values = uniform("ab", element_count(layout), 1.0)
    a, b = (torch.as_tensor(part.copy()) for part in views(layout, values).values())
    twin = Tied()
    names = {name: name.replace("1.own.", "1.") for name in model.state_dict()}
    twin.load_state_dict({new: model.state_dict()[old] for old, new in names.items() if old[-2:] not in (".a", ".b")})
    with torch.no_grad():
        twin.get_parameter("layers.1.weight").copy_(weight + b @ a)
        torch.testing.assert_close(perturbed(perturbing, model, Point(values)), twin(TOKENS))
