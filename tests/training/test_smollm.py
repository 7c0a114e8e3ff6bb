"""SmolLM2-135M from its file is the model that its makers meant: every step is checked against something else."""

import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader

from shoal.training import gguf_header, smollm_file
from shoal.training.smollm import Packing, SmolLm, generate
from shoal.training.tensors import element_count
from tests.training.weights_at_hand import needs_smollm, smol_file

pytestmark = needs_smollm
ROOT = Path(__file__).parents[2]
TEXTS = ("The film was dull, and far too long. It was", "Paris is the capital of", "a")


@pytest.fixture(scope="module")
def model() -> SmolLm:
    made = SmolLm()
    for name, parameter in made.named_parameters():
        smol_file().read(name, parameter.detach().numpy())
    return made


def tokens_of(text: str) -> list[int]:
    tokens: list[int] = smol_file().tokenizer().encode(text).ids
    return tokens


@torch.no_grad()
def logits_of(model: SmolLm, texts: tuple[str, ...]) -> torch.Tensor:
    """(texts, vocabulary) after the last token of each, all packed together."""
    tokens = [tokens_of(text) for text in texts]
    packing = Packing([len(each) for each in tokens], torch.device("cpu"))
    x = model(model.enter(torch.tensor([token for each in tokens for token in each])), packing)
    return model.logits(x[packing.last], torch.arange(smollm_file.VOCABULARY))


def test_the_layout_is_that_of_the_module_and_of_the_file(model: SmolLm) -> None:
    assert {name: tuple(each.shape) for name, each in model.named_parameters()} == {
        tensor.name: tensor.shape for tensor in smollm_file.LAYOUT
    }
    assert element_count(smollm_file.LAYOUT) == 134_515_008


def test_the_header_says_what_ggufs_own_reader_reads() -> None:
    path = smol_file().path
    mine, theirs = gguf_header.parse_header(memoryview(path.read_bytes())), GGUFReader(path)
    for name, value in mine.metadata.items():
        assert theirs.fields[name].contents() == value
    assert {name: (each.shape, each.kind, each.offset) for name, each in mine.tensors.items()} == {
        each.name: (tuple(int(n) for n in reversed(each.shape)), int(each.tensor_type), each.data_offset)
        for each in theirs.tensors
    }


def test_another_file_is_no_gguf_file() -> None:
    with pytest.raises(ValueError, match="expected a GGUF file"):
        gguf_header.parse_header(memoryview(bytes(64)))


def test_values_are_scale_times_number_plus_minimum_as_ggml_packs_them() -> None:
    """Q4_1: 32 values in 20 bytes: scale and minimum as float16, then 16 bytes whose low halves are the first 16."""
    header = gguf_header.parse_header(memoryview(smol_file().path.read_bytes()))
    stored = header.tensors["blk.7.ffn_up.weight"]
    assert stored.shape == (1536, 576)
    row_bytes = 576 // 32 * 20
    raw = smol_file().path.read_bytes()[stored.offset + 5 * row_bytes : stored.offset + 6 * row_bytes]
    row: list[float] = []
    for block in range(18):
        packed = raw[20 * block : 20 * block + 20]
        scale, minimum = (np.float32(each) for each in np.frombuffer(packed[:4], "<f2"))
        numbers = [byte & 15 for byte in packed[4:]] + [byte >> 4 for byte in packed[4:]]
        row += [float(scale * np.float32(number) + minimum) for number in numbers]
    assert smol_file().rows("layers.7.mlp.up.weight", 5, 6)[0].tolist() == row


def test_logits_are_those_of_another_implementation(model: SmolLm) -> None:
    """transformers' Llama, which turns the halves of each head where the file's rows are ordered for neighbours."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        max_position_embeddings=8192,
    )  # fmt: skip
    theirs: Any = LlamaForCausalLM(config)
    theirs.eval()
    places = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
    places |= {f"attention.{each}": f"self_attn.{each}_proj" for each in "qkv"} | {"attention.out": "self_attn.o_proj"}
    places |= {f"mlp.{each}": f"mlp.{each}_proj" for each in ("gate", "up", "down")}
    values: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        own, place = parameter.detach(), name.replace("embedding", "embed_tokens")
        for mine, other in places.items():
            if name.endswith(f".{mine}.weight"):
                place = name.replace(f".{mine}.", f".{other}.")
        if name.endswith((".q.weight", ".k.weight")):
            heads = len(own) // 64
            own = own.view(heads, 32, 2, 576).transpose(1, 2).reshape(own.shape)
        values["model." + place] = own
    missing = theirs.load_state_dict(values, strict=False)
    assert missing.unexpected_keys == []
    assert missing.missing_keys in ([], ["lm_head.weight"])
    theirs.tie_weights()
    together = logits_of(model, TEXTS)
    for text, mine in zip(TEXTS, together, strict=True):
        with torch.no_grad():
            expected = theirs(torch.tensor([tokens_of(text)])).logits[0, -1]
        torch.testing.assert_close(mine, expected, rtol=1e-3, atol=2e-3)
        assert int(mine.argmax()) == int(expected.argmax())


def test_packed_texts_do_not_see_one_another(model: SmolLm) -> None:
    together = logits_of(model, TEXTS)
    for text, logits in zip(TEXTS, together, strict=True):
        torch.testing.assert_close(logits_of(model, (text,))[0], logits, rtol=1e-3, atol=1e-3)


def test_layers_one_after_the_other_give_what_the_whole_gives(model: SmolLm) -> None:
    lower, upper = SmolLm(0, 24), SmolLm(24)
    for part in (lower, upper):
        for name, parameter in part.named_parameters():
            smol_file().read(name, parameter.detach().numpy())
    packing = Packing([5], torch.device("cpu"))
    with torch.no_grad():
        x = model.enter(torch.arange(100, 105))
        assert torch.equal(upper(lower(x, packing), packing), model(x, packing))


def test_it_knows_the_capital_of_france(model: SmolLm) -> None:
    written = list(islice(generate(model, tokens_of("The capital of France is"), 0.0, torch.Generator()), 3))
    assert smol_file().tokenizer().decode(written).startswith(" Paris")


def test_the_cache_gives_the_tokens_of_the_whole(model: SmolLm) -> None:
    seen = tokens_of("Once upon a time")
    for token in islice(generate(model, seen, 0.0, torch.Generator()), 6):
        packing = Packing([len(seen)], torch.device("cpu"))
        with torch.no_grad():
            x = model(model.enter(torch.tensor(seen)), packing)[-1:]
            assert token == int(model.logits(x, torch.arange(smollm_file.VOCABULARY)).argmax())
        seen = [*seen, token]


@pytest.mark.parametrize("text", ["It's 2026, isn't it?", " great", "Œuvre d'été …\n\n  x", "日本 🙂"])
def test_the_tokenizer_gives_back_every_text(text: str) -> None:
    assert smol_file().tokenizer().decode(tokens_of(text)) == text


def test_digits_are_tokens_of_their_own() -> None:
    tokenizer = smol_file().tokenizer()
    assert [tokenizer.decode([token]) for token in tokens_of("in 1984")] == ["in", " ", "1", "9", "8", "4"]


def test_the_weights_are_looked_up_without_loading_torch_or_gguf() -> None:
    program = (
        "import sys; from shoal.training.smollm_file import open_file, SmolFile; "
        "print(isinstance(open_file(), SmolFile), sorted({'torch', 'gguf', 'tokenizers', 'llm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "True []\n"
