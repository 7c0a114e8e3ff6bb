"""Any causal language model that the owner has on disk, by transformers, for the sentiment task.

The spec's name for it is "hf:<BLAKE3 of its files in hex>"; who takes part names a folder with the very same files.
Nothing runs that is in the folder: weights are safetensors, the classes are transformers' own, and nothing is fetched.
Unlike SmolLM2's, its layers below those that are trained are computed again for each batch.
"""

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from blake3 import blake3
from torch import Tensor, nn

from .evaluator_settings import EvaluatorSettings
from .gpt import sample
from .lora import add_lora
from .perturbing import Perturbing, Point
from .selection import choose, lora_start, lora_targets
from .sentiment import Sentences
from .sentiment_evaluator import Questions, questions_of
from .tensors import Layout, TensorShape, views

if TYPE_CHECKING:
    from .tensors import Vector

HF_PREFIX: Final = "hf:"
SUFFIXES: Final = (".safetensors", ".json", ".txt", ".model")  # of files that decide what the model is
TOGETHER: Final = 8  # sentences, of like length: the logits of all words at the end of each are kept until the choice


def hf_name(folder: Path) -> str | None:
    """The spec's name for the model in this folder, or None if it cannot be read."""
    hashed = blake3(b"shoal/hf/1\0")
    try:
        for path in sorted(folder.iterdir(), key=lambda each: each.name):
            if path.suffix in SUFFIXES and path.is_file():
                digest = blake3(max_threads=blake3.AUTO).update_mmap(path).digest()
                hashed.update(len(path.name.encode()).to_bytes(8, "little") + path.name.encode() + digest)
    except OSError:
        return None
    return HF_PREFIX + hashed.hexdigest()


class HfModel:
    """A LanguageModel (sentiment_evaluator.py)."""

    def __init__(self, folder: Path, layout: Layout, questions: Questions, device: torch.device) -> None:
        self._questions = questions
        self._device = device
        self._tokenizer = tokenizer_of(folder)
        self._model = load_model(folder)
        add_lora(self._model, layout)
        self.perturbing = Perturbing(self._model, layout)
        self._model.to(device)
        self._keeps_some = "logits_to_keep" in inspect.signature(self._model.forward).parameters

    def logits(self, questions: Sequence[int]) -> Tensor:
        prompts = [self._questions.prompts[number] for number in questions]
        order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
        rows = torch.empty(len(prompts), 2)
        for first in range(0, len(order), TOGETHER):
            places = order[first : first + TOGETHER]
            rows[places] = self._words([prompts[place] for place in places], self._questions.words).cpu()
        return rows

    def write(self, parameters: "Vector", prompt: str, temperature: float, seed: int) -> Iterator[str]:
        chosen = torch.Generator().manual_seed(seed)
        end = self._tokenizer.eos_token_id
        unread, cache, written = list(self._tokenizer(prompt).input_ids) or [end or 0], None, list[int]()
        with torch.no_grad(), self.perturbing.at(Point(parameters)):
            while True:
                tokens = torch.tensor([unread], device=self._device)
                done = self._model(input_ids=tokens, past_key_values=cache, use_cache=True)
                token = sample(done.logits[0, -1].float().cpu(), temperature, chosen)
                if token == end:
                    return
                written.append(token)
                yield self._tokenizer.decode(written)
                unread, cache = [token], done.past_key_values

    def _words(self, prompts: Sequence[Sequence[int]], words: tuple[int, int]) -> Tensor:
        """(len(prompts), 2). What fills a row up stands behind its prompt, where a causal model does not look."""
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        tokens = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = torch.tensor(prompt)
        is_there = (torch.arange(tokens.size(1)) < lengths[:, None]).to(self._device, torch.int64)
        ends = sorted({len(prompt) - 1 for prompt in prompts})
        places = [ends.index(len(prompt) - 1) if self._keeps_some else len(prompt) - 1 for prompt in prompts]
        some = {"logits_to_keep": torch.tensor(ends, device=self._device)} if self._keeps_some else {}
        out = self._model(input_ids=tokens.to(self._device), attention_mask=is_there, use_cache=False, **some)
        rows: Tensor = out.logits[torch.arange(len(prompts)), places]
        return rows[:, list(words)].float()


def hf_task(folder: Path, settings: EvaluatorSettings, sentences: Sentences) -> tuple[Layout, Questions] | str:
    """What is to be trained of the model in this folder, and the task in its tokens; or why it cannot be.

    Raises as `load_model`.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = cast(Any, AutoConfig).from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):  # names and shapes alone
        model: nn.Module = cast(Any, AutoModelForCausalLM).from_config(config, trust_remote_code=False)
    whole = tuple(TensorShape(name, tuple(parameter.shape)) for name, parameter in model.named_parameters())
    layout = choose(whole, settings)
    tokenizer = tokenizer_of(folder)

    def encode(text: str) -> Sequence[int]:
        tokens: Sequence[int] = tokenizer(text).input_ids
        return tokens

    questions = questions_of(sentences, encode)
    if isinstance(layout, str) or isinstance(questions, str):
        return layout if isinstance(layout, str) else str(questions)
    return layout, questions


def hf_first_values(folder: Path, layout: Layout, seed: int, out: "Vector") -> None:
    """(n,) What training starts from: the files' values, or LoRA's first ones. Raises as `load_model`."""
    if lora_targets(layout):
        out[:] = lora_start(layout, seed)
        return
    named = dict(load_model(folder).named_parameters())
    for name, part in views(layout, out).items():
        part[:] = named[name].detach().numpy()


def load_model(folder: Path) -> nn.Module:
    """The model in this folder, in float32.

    Raises:
        OSError, ValueError, ImportError: it is none, or none whose class transformers has, or no safetensors.
    """
    from transformers import AutoModelForCausalLM

    loaded = cast(Any, AutoModelForCausalLM).from_pretrained(
        folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
    )
    model: nn.Module = loaded.eval()
    return model


def tokenizer_of(folder: Path) -> Any:
    """Raises as `load_model`."""
    from transformers import AutoTokenizer

    return cast(Any, AutoTokenizer).from_pretrained(folder, local_files_only=True, trust_remote_code=False)
