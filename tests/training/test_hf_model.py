"""Any causal language model on disk, without code from its folder and without the network."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from shoal.training.directions import perturbed
from shoal.training.evaluator_settings import EvaluatorSettings, Train
from shoal.training.hf_model import HfModel, hf_first_values, hf_name, hf_task, load_model
from shoal.training.models import uniform
from shoal.training.perturbing import Point
from shoal.training.sentiment import Sentence, Sentences
from shoal.training.sentiment_evaluator import Questions, SentimentEvaluator
from shoal.training.tensors import Layout, element_count, views

WORDS = ["<end>", "Ġ", "good", "Ġgood", "bad", "Ġbad", "Ġfilm", "Ġa", "Ġvery", "ĠIt", "Ġwas", "Ġgreat", "Ġterrible"]
TEXTS = (" a good film", " bad", " a very very bad film", " a very good good good film")
SENTENCES = Sentences(
    tuple(Sentence(text, "good" in text) for text in TEXTS), (Sentence(" good", True), Sentence(" a bad film", False))
)
KEY = bytes(range(32))


def save(model: PreTrainedModel, folder: Path) -> Path:
    """The model with a tokenizer of a dozen words."""
    cast(Any, model).save_pretrained(folder)
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<end>"))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@torch.no_grad()
def repeatable(model: PreTrainedModel) -> PreTrainedModel:
    """The model with values that are always the same."""
    for name, parameter in model.named_parameters():
        values = uniform(name, parameter.numel(), 0.3).reshape(parameter.shape)
        parameter.copy_(torch.as_tensor(values + np.float32("norm.weight" in name or "ln_" in name)))
    return model


def llama(folder: Path) -> Path:
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=True, eos_token_id=0,
    )  # fmt: skip
    return save(repeatable(LlamaForCausalLM(config)), folder)


def gpt2(folder: Path) -> Path:
    config = GPT2Config(vocab_size=len(WORDS), n_embd=16, n_layer=2, n_head=2, n_positions=64, eos_token_id=0)
    return save(repeatable(GPT2LMHeadModel(config)), folder)


def prepared(folder: Path, train: Train) -> tuple[Layout, Questions, HfModel]:
    task = hf_task(folder, EvaluatorSettings(train=train, layers=1, rank=2), SENTENCES)
    assert not isinstance(task, str), task
    layout, questions = task
    return layout, questions, HfModel(folder, layout, questions, torch.device("cpu"))


@torch.no_grad()
def expected_logits(folder: Path, questions: Questions, layout: Layout, values: np.ndarray) -> torch.Tensor:
    """Sentence by sentence, by the whole model as transformers loads it, filled with `values`."""
    model = load_model(folder)
    named = dict(model.named_parameters())
    for name, part in views(layout, values).items():
        named[name].copy_(torch.as_tensor(part.copy()))
    rows = [model(input_ids=torch.tensor([list(prompt)])).logits[0, -1] for prompt in questions.prompts]
    return torch.stack(rows)[:, list(questions.words)]


def first_values(folder: Path, layout: Layout, seed: int) -> np.ndarray:
    values = np.empty(element_count(layout), np.float32)
    hf_first_values(folder, layout, seed, values)
    return values


@pytest.mark.parametrize("kind", [llama, gpt2])
@pytest.mark.parametrize("train", ["last_norms", "norms", "last_layers", "all"])
def test_logits_at_perturbed_values_are_those_of_transformers_itself(
    kind: Callable[[Path], Path], train: Train, tmp_path: Path
) -> None:
    folder = kind(tmp_path)
    layout, questions, model = prepared(folder, train)
    values = first_values(folder, layout, 0)
    everything = range(len(questions.prompts))
    with torch.no_grad(), model.perturbing.at(Point(values)):
        assert torch.allclose(model.logits(everything), expected_logits(folder, questions, layout, values), atol=1e-5)
    moved, scale, start = np.empty_like(values), np.float32(0.1), 0
    for number, tensor in enumerate(layout):
        stop = start + element_count((tensor,))
        perturbed(values[start:stop], KEY, number, scale, moved[start:stop])
        start = stop
    with torch.no_grad(), model.perturbing.at(Point(values, KEY, scale)):
        assert torch.allclose(model.logits(everything), expected_logits(folder, questions, layout, moved), atol=1e-5)
    assert not np.array_equal(values, moved)


def test_lora_stands_beside_its_projections(tmp_path: Path) -> None:
    folder = llama(tmp_path)
    layout, questions, model = prepared(folder, "lora")
    assert [tensor.name.split(".", 3)[3] for tensor in layout[:4]] == [
        "self_attn.q_proj.a", "self_attn.q_proj.b", "self_attn.v_proj.a", "self_attn.v_proj.b",
    ]  # fmt: skip
    values = first_values(folder, layout, 3)
    with torch.no_grad(), model.perturbing.at(Point(values)):
        logits = model.logits(range(6))
    assert torch.allclose(logits, expected_logits(folder, questions, (), np.empty(0, np.float32)), atol=1e-5)
    task = hf_task(gpt2(tmp_path / "other"), EvaluatorSettings(train="lora"), SENTENCES)
    assert "no projections q and v" in str(task)


def test_it_can_be_trained_along_directions(tmp_path: Path) -> None:
    folder = llama(tmp_path)
    layout, questions, model = prepared(folder, "all")
    evaluator = SentimentEvaluator(model, questions, batch_size=4, threads=1)
    values, scale = first_values(folder, layout, 0), np.float32(1e-2)
    before = evaluator.evaluate(values)
    for step in range(150):
        key = step.to_bytes(32, "little")
        plus, minus = evaluator.losses(values, key, scale, step)
        moved, start = np.empty_like(values), 0
        for number, tensor in enumerate(layout):
            stop = start + element_count((tensor,))
            rate = np.float32(-2e-3 * (plus - minus) / (2 * float(scale)))
            perturbed(values[start:stop], key, number, rate or np.float32(1e-9), moved[start:stop])
            start = stop
        values = moved
    after = evaluator.evaluate(values)
    assert after["validation_loss"] < before["validation_loss"] - 0.2
    assert after["accuracy"] == 1.0


def test_it_writes_and_repeats_from_a_seed(tmp_path: Path) -> None:
    folder = gpt2(tmp_path)
    layout, questions, model = prepared(folder, "norms")
    evaluator = SentimentEvaluator(model, questions, batch_size=4, threads=1)
    values = first_values(folder, layout, 0)
    texts = [evaluator.generate(values, b" a good", 30, 1.0, seed) for seed in (1, 1, 2)]
    assert len(texts[0]) <= 30
    assert texts[0] == texts[1] != texts[2]


def test_a_models_name_is_that_of_its_files_alone(tmp_path: Path) -> None:
    one, two = llama(tmp_path / "one"), llama(tmp_path / "two")
    name = hf_name(one)
    assert name is not None
    assert name.startswith("hf:")
    assert hf_name(two) == name
    (two / "README.md").write_text("says nothing of the model")
    assert hf_name(two) == name
    (two / "config.json").write_text((two / "config.json").read_text() + "\n")
    assert hf_name(two) != name
    assert hf_name(tmp_path / "nowhere") is None


def test_code_in_the_folder_is_never_run(tmp_path: Path) -> None:
    folder = llama(tmp_path)
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: ...\nclass Model: ...\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="trust_remote_code"):
        hf_task(folder, EvaluatorSettings(), SENTENCES)
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = llama(tmp_path)
    torch.save(load_model(folder).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        load_model(folder)
