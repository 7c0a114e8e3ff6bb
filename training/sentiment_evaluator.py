"""The sentiment task for a language model that can be asked which of two words comes next.

A sentence is followed by " It was", and the model says which is likelier, " great" or " terrible" (Malladi et al. 2023,
section D, after Gao et al. 2021). The loss is the cross entropy between these two alone. Over the whole vocabulary it
trained worse in the one run that was made (docs/decisions.md): what the losses at two points differ by is then mostly
that other words became likelier.

All is computed in float32. A central difference subtracts two losses that differ by a few percent: bfloat16 keeps
eight bits, and its rounding is as large as what is to be measured.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .inner import use_threads
from .perturbing import Perturbing, Point
from .sentiment import Sentences

if TYPE_CHECKING:
    from .tensors import Vector

PROMPT: Final = " It was"
WORDS: Final = (" great", " terrible")
EVALUATION_BATCH: Final = 16  # sentences at once


@dataclass(frozen=True, slots=True)
class Questions:
    """The task in a model's tokens: first the training sentences, then those to evaluate on."""

    prompts: Sequence[Sequence[int]]  # each with PROMPT behind it
    answers: Sequence[int]  # each 0 or 1: which of WORDS is right
    training_count: int
    words: tuple[int, int]  # the token with which each of WORDS begins


class LanguageModel(Protocol):
    """What the evaluator asks of a model. Its trained parameters are there only inside of `perturbing.at(...)`."""

    perturbing: Perturbing

    def logits(self, questions: Sequence[int]) -> Tensor:
        """(len(questions), 2) of the two words, for the questions with these numbers, in any float32 device."""
        ...

    def write(self, parameters: "Vector", prompt: str, temperature: float, seed: int) -> Iterator[str]:
        """All that was written so far, again after each token."""
        ...


class SentimentEvaluator:
    """What LateEvaluator (late_evaluator_service.py) asks, one thread at a time."""

    def __init__(self, model: LanguageModel, questions: Questions, batch_size: int, threads: int) -> None:
        self._model = model
        self._answers = torch.tensor(questions.answers)
        self._training_count = questions.training_count
        evaluation = range(questions.training_count, len(questions.prompts))
        # The longest first: what smaller batches need then fits where larger ones were, and the heap does not grow.
        self._evaluation = sorted(evaluation, key=lambda number: (-len(questions.prompts[number]), number))
        self._batch_size = batch_size
        self._threads = threads

    def losses(self, parameters: "Vector", key: bytes, scale: np.float32, seed: int) -> tuple[float, float]:
        """Mean loss in nats at parameters + scale z and at parameters - scale z, over `batch_size` training sentences
        that `seed` (64 bits) draws with replacement: anybody can draw them again.
        """
        questions = draw(seed, self._batch_size, self._training_count)
        plus, minus = (self._loss(Point(parameters, key, each), questions) for each in (scale, -scale))
        return plus, minus

    def evaluate(self, parameters: "Vector") -> Mapping[str, float]:
        """{"validation_loss": nats, "accuracy": share of the evaluation sentences}."""
        total, right = 0.0, 0
        for first in range(0, len(self._evaluation), EVALUATION_BATCH):
            questions = self._evaluation[first : first + EVALUATION_BATCH]
            logits, answers = self._logits(Point(parameters), questions), self._answers[questions]
            total += float(F.cross_entropy(logits, answers, reduction="sum"))
            right += int((logits.argmax(1) == answers).sum())
        return {"validation_loss": total / len(self._evaluation), "accuracy": right / len(self._evaluation)}

    def generate(self, parameters: "Vector", prompt: bytes, count: int, temperature: float, seed: int) -> bytes | str:
        """`count` bytes that continue `prompt`, or fewer where the model ends its text."""
        use_threads(self._threads)
        written = b""
        for text in self._model.write(parameters, prompt.decode(errors="replace"), temperature, seed):
            written = text.encode()
            if len(written) >= count:
                break
        return written[:count]

    def _loss(self, point: Point, questions: Sequence[int]) -> float:
        return float(F.cross_entropy(self._logits(point, questions), self._answers[questions]))

    @torch.no_grad()
    def _logits(self, point: Point, questions: Sequence[int]) -> Tensor:
        """(len(questions), 2) float64 on the CPU."""
        use_threads(self._threads)
        torch.set_float32_matmul_precision("highest")  # no TF32, whoever asked for it: it has ten bits
        with self._model.perturbing.at(point):
            return self._model.logits(questions).double().cpu()


def draw(seed: int, count: int, among: int) -> list[int]:
    """`count` numbers below `among`, with replacement: a function of `seed`, the same on every machine."""
    return [int(raw) % among for raw in np.random.Philox(key=seed).random_raw(count)]  # of 64 bits: no bias to speak of


def questions_of(sentences: Sentences, encode: Callable[[str], Sequence[int]]) -> Questions | str:
    """The task in the tokens of a model; or why it cannot be asked."""
    everything = (*sentences.training, *sentences.evaluation)
    stem = list(encode(PROMPT))
    words = [list(encode(PROMPT + word)) for word in WORDS]
    if any(word[: len(stem)] != stem or len(word) == len(stem) for word in words):
        return f"this model's tokens cut the words {WORDS[0]!r} and {WORDS[1]!r} elsewhere than at their beginning"
    first, second = (word[len(stem)] for word in words)
    if first == second:
        return f"the words {WORDS[0]!r} and {WORDS[1]!r} begin with the same token of this model"
    prompts = [encode(sentence.text + PROMPT) for sentence in everything]
    answers = [0 if sentence.is_positive else 1 for sentence in everything]
    return Questions(prompts, answers, len(sentences.training), (first, second))
