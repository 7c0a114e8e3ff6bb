"""SmolLM2-135M for the sentiment task: as much of it as the trained parameters need in memory, above a cached trunk."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor

from . import smollm_file
from .lora import add_lora
from .perturbing import Perturbing, Point
from .selection import first_layer, lora_targets
from .sentiment_evaluator import Questions
from .smollm import Packing, SmolLm, generate
from .smollm_file import SmolFile
from .tensors import Layout
from .trunk_service import Keep, Trunk, activations, trunk_name

if TYPE_CHECKING:
    from .tensors import Vector
    from .trunk_service import Activations

EMBEDDING = "embedding.weight"


class SmolModel:
    """A LanguageModel (sentiment_evaluator.py).

    Where the first trained layer is not the model's first, the layers before it are computed once for all questions
    and kept; of the embedding only the rows of the two words are left then.
    """

    def __init__(self, file: SmolFile, layout: Layout, questions: Questions, keep: Keep, device: torch.device) -> None:
        self.layout = layout
        self._file = file
        self._prompts = [list(prompt) for prompt in questions.prompts]
        first = 0 if lora_targets(layout) else first_layer(layout)
        self._trunk = self._activations(first, keep) if first else None
        self._model = SmolLm(first)
        words = torch.tensor(questions.words)
        if first:
            rows = [file.rows(EMBEDDING, word, word + 1) for word in questions.words]
            self._model.embedding.weight.data = torch.as_tensor(np.concatenate(rows))
            words = torch.arange(len(rows))
        self.perturbing = self._fill(self._model)
        self._model.to(device)
        self._words = words.to(device)

    def logits(self, questions: Sequence[int]) -> Tensor:
        device = self._words.device
        packing = Packing([len(self._prompts[number]) for number in questions], device)
        if self._trunk is None:
            tokens = [token for number in questions for token in self._prompts[number]]
            x = self._model.enter(torch.tensor(tokens, device=device))
        else:
            x = torch.as_tensor(np.concatenate([self._trunk[number] for number in questions])).to(device)
        return self._model.logits(self._model(x, packing)[packing.last], self._words)

    def write(self, parameters: "Vector", prompt: str, temperature: float, seed: int) -> Iterator[str]:
        """On the CPU, by the whole model: what the task needs is not enough."""
        whole = SmolLm()
        tokenizer = self._file.tokenizer()
        tokens: list[int] = []
        with self._fill(whole).at(Point(parameters)):
            chosen = torch.Generator().manual_seed(seed)
            for token in generate(whole, tokenizer.encode(prompt).ids, temperature, chosen):
                tokens.append(token)
                yield tokenizer.decode(tokens)

    def _fill(self, model: SmolLm) -> Perturbing:
        """Set all values of `model` that are not trained."""
        trained = {tensor.name for tensor in self.layout}
        few = len(model.embedding.weight) < smollm_file.VOCABULARY
        self._read(model, trained | {EMBEDDING} if few else trained)
        add_lora(model, self.layout)
        return Perturbing(model, self.layout)

    def _read(self, model: SmolLm, without: set[str]) -> None:
        """Set the values from the file, in one piece of memory: malloc gives large pieces back when they are let go."""
        named = {name: parameter for name, parameter in model.named_parameters() if name not in without}
        flat = torch.empty(sum(parameter.numel() for parameter in named.values()))
        parts = torch.split(flat, [parameter.numel() for parameter in named.values()])
        for (name, parameter), part in zip(named.items(), parts, strict=True):
            parameter.data = part.view(parameter.shape)
            self._file.read(name, parameter.detach().numpy())

    def _activations(self, first: int, keep: Keep) -> "list[Activations]":
        lengths = [len(prompt) for prompt in self._prompts]
        texts = b"".join(np.array([len(prompt), *prompt], "<u4").tobytes() for prompt in self._prompts)
        name = trunk_name(smollm_file.FILE_BLAKE3.encode(), blake3(texts).digest(), str(first).encode())
        below: list[SmolLm] = []  # in memory only where something has to be computed, and only meanwhile

        @torch.no_grad()
        def compute(chunk: range) -> "Activations":
            if not below:
                below.append(SmolLm(0, first))
                self._read(below[0], {"norm.weight"})
            tokens = [token for text in chunk for token in self._prompts[text]]
            packing = Packing([lengths[text] for text in chunk], torch.device("cpu"))
            made: Activations = below[0](below[0].enter(torch.tensor(tokens)), packing).numpy()
            return made

        return activations(Trunk(name, lengths, smollm_file.WIDTH, compute), keep)
