"""Models by name: honest sizes, the same first bits everywhere, and a model that sees only what came before."""

import math

import numpy as np
import pytest
import torch
from blake3 import blake3

from shoal.training import gpt
from shoal.training.models import SIZES, GptSize, gpt_layout, gpt_start, memory_bytes, parameter_count, uniform
from shoal.training.tensors import element_count, views

TINY = GptSize(width=32, layers=2, heads=2)


def model(seed: int = 0) -> gpt.Gpt:
    return gpt.Gpt(TINY, torch.as_tensor(gpt_start(TINY, seed)))


@pytest.mark.parametrize("name", SIZES)
def test_a_models_name_says_its_size_rounded_down(name: str) -> None:
    millions = float(name.removeprefix("gpt-").removesuffix("m"))
    count = parameter_count(SIZES[name])
    assert count == 12 * SIZES[name].width ** 2 * SIZES[name].layers + 256 * SIZES[name].width
    assert 0 <= count / 1e6 - millions < 0.08 * millions or abs(count / 1e6 - millions) < 0.5
    assert SIZES[name].width % (2 * SIZES[name].heads) == 0


def test_first_values_are_these_bits_on_every_machine() -> None:
    digest = blake3(gpt_start(SIZES["gpt-0.2m"], seed=7).astype("<f4").tobytes()).hexdigest()
    assert digest == "3723b069e73497ce699cc62373dcf9ef900eb5b08959ab2d2859546a759581b6"


def test_first_values_have_the_spread_they_should() -> None:
    values = uniform("label", 200_001, 0.5)
    assert abs(values.mean()) < 0.005
    assert abs(values.std() - 0.5) < 0.005
    assert np.abs(values).max() <= 0.5 * math.sqrt(3)
    assert not np.array_equal(values, uniform("other", 200_001, 0.5))
    assert np.array_equal(values[:100], uniform("label", 100, 0.5))


def test_the_layout_is_that_of_the_module() -> None:
    names = {name: tuple(parameter.shape) for name, parameter in model().named_parameters()}
    assert names == {tensor.name: tensor.shape for tensor in gpt_layout(TINY)}


def test_parameters_and_gradients_share_memory_with_the_flat_vectors() -> None:
    flat = torch.as_tensor(gpt_start(TINY, 0))
    gradient = torch.zeros_like(flat)
    made = gpt.Gpt(TINY, flat, gradient)
    torch.autograd.backward(gpt.loss(made, torch.randint(0, 256, (2, 17), generator=torch.Generator().manual_seed(1))))
    parts = views(gpt_layout(TINY), gradient.numpy())
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None
        assert np.array_equal(parts[name], parameter.grad.numpy())
    assert np.count_nonzero(gradient.numpy()) > 0.9 * element_count(gpt_layout(TINY)) - 256 * 32


def test_a_first_model_knows_nothing() -> None:
    windows = torch.randint(0, 256, (4, 65), generator=torch.Generator().manual_seed(0))
    assert abs(float(gpt.loss(model(), windows).detach()) - math.log(256)) < 0.1


def test_a_byte_does_not_see_those_after_it() -> None:
    tokens = torch.randint(0, 256, (1, 20), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[0, 12] ^= 1
    with torch.no_grad():
        difference = (model()(tokens) - model()(changed)).abs().amax(dim=2)[0]
    assert torch.all(difference[:12] == 0)
    assert torch.all(difference[12:] > 0)


def test_the_cache_gives_the_logits_of_the_whole() -> None:
    made, prompt, count = model(), b"Shall I compare thee", 12
    text = gpt.generate(made, prompt, count, context=64, temperature=0, generator=torch.Generator())
    seen = list(prompt)
    for expected in text:
        with torch.no_grad():
            logits = made(torch.tensor([seen]))[0, -1]
        assert int(logits.argmax()) == expected
        seen.append(expected)


def test_writing_goes_on_past_the_context_and_repeats_from_a_seed() -> None:
    texts = [
        gpt.generate(model(), b"", 40, context=16, temperature=1.0, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert len(texts[0]) == 40
    assert texts[0] == texts[1] != texts[2]


def test_memory_grows_with_parameters_and_with_batches() -> None:
    small, large = SIZES["gpt-0.2m"], SIZES["gpt-124m"]
    assert memory_bytes(small, 8, 128) < 1.2 * 2**30
    assert memory_bytes(large, 8, 128) > 40 * parameter_count(large)
    assert memory_bytes(small, 8, 65_536) > memory_bytes(small, 8, 128) + 2**30
