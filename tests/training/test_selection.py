"""What is trained of a model, by the names of its parameters, and what LoRA's matrices start from."""

import numpy as np
import pytest
from blake3 import blake3

from shoal.training.evaluator_settings import EvaluatorSettings, Train
from shoal.training.selection import choose, first_layer, lora_start, lora_targets
from shoal.training.smollm_file import LAYOUT
from shoal.training.tensors import Layout, TensorShape, element_count

# As transformers names the parameters of its GPT-2.
GPT2: Layout = tuple(
    TensorShape(f"transformer.{name}", shape)
    for name, shape in [
        ("wte.weight", (50, 8)),
        ("wpe.weight", (16, 8)),
        *[
            (f"h.{layer}.{name}", shape)
            for layer in range(3)
            for name, shape in [
                ("ln_1.weight", (8,)),
                ("ln_1.bias", (8,)),
                ("attn.c_attn.weight", (8, 24)),
                ("ln_2.weight", (8,)),
            ]
        ],
        ("ln_f.weight", (8,)),
        ("ln_f.bias", (8,)),
    ]
)


def chosen(whole: Layout, train: Train, layers: int = 6, rank: int = 8) -> Layout:
    layout = choose(whole, EvaluatorSettings(train=train, layers=layers, rank=rank))
    assert not isinstance(layout, str), layout
    return layout


@pytest.mark.parametrize(
    ("train", "count", "first"),
    [
        ("last_norms", 7_488, 24),
        ("norms", 35_136, 0),
        ("lora", 460_800, 0),
        ("last_layers", 21_241_152, 24),
        ("all", 134_515_008, 0),
    ],
)
def test_of_smollm_each_setting_trains_so_many_parameters_from_this_layer_on(
    train: Train, count: int, first: int
) -> None:
    layout = chosen(LAYOUT, train)
    assert element_count(layout) == count
    assert first_layer(layout) == first
    assert choose(LAYOUT, EvaluatorSettings()) == chosen(LAYOUT, "last_norms")


def test_the_final_norm_is_among_the_last_and_the_embedding_is_not() -> None:
    for train in ("last_norms", "last_layers"):
        names = [tensor.name for tensor in chosen(LAYOUT, train, layers=1)]
        assert names[-1] == "norm.weight"
        assert {name.split(".")[1] for name in names[:-1]} == {"29"}


def test_another_familys_names_are_understood() -> None:
    names = [tensor.name.removeprefix("transformer.") for tensor in chosen(GPT2, "last_norms", layers=1)]
    assert names == ["h.2.ln_1.weight", "h.2.ln_2.weight", "ln_f.weight"]
    assert len(chosen(GPT2, "norms")) == 7
    assert len(chosen(GPT2, "last_layers", layers=2)) == 9
    assert "no projections q and v" in str(choose(GPT2, EvaluatorSettings(train="lora")))


def test_a_model_without_norms_is_told_so() -> None:
    assert "choose another" in str(choose((TensorShape("layers.0.weight", (3, 3)),), EvaluatorSettings()))


def test_lora_starts_from_the_same_bits_everywhere_and_adds_nothing_at_first() -> None:
    layout = chosen(LAYOUT, "lora", rank=2)
    assert lora_targets(layout)[:2] == ["layers.0.attention.q", "layers.0.attention.v"]
    values = lora_start(layout, 7)
    assert (
        blake3(values.astype("<f4").tobytes()).hexdigest()
        == "17b9c24662b8f6bedb2a98da130ddb04bc45aa49441ea58ae899020932d354a6"
    )
    start = 0
    for tensor in layout:
        part = values[start : start + element_count((tensor,))]
        assert np.any(part) == tensor.name.endswith(".a")
        start += len(part)
    assert not np.array_equal(values, lora_start(layout, 8))
