"""From a spec to what tells losses of its model at perturbed parameters, or to the line that says why this machine
cannot.

torch is loaded when the first loss is asked for; only a model of the owner's own needs it at once.
"""

import importlib.util
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from . import data, sentiment, smollm_file
from .attempt import Raised, attempt
from .evaluator_settings import EvaluatorSettings
from .late_evaluator_service import LateEvaluator, Loaded
from .models import SIZES, gpt_layout, gpt_start
from .selection import choose
from .spec import Spec
from .trunk_service import Keep, Progress

if TYPE_CHECKING:
    from .tensors import Vector

HF_PREFIX = "hf:"
TRANSFORMERS_MISSING = "this swarm's model needs transformers, which is not installed here: pip install 'shoal[hf]'"


@dataclass(frozen=True, slots=True)
class Machine:
    """What is to be had on this machine; the member's owner decides."""

    device: str  # as torch names it
    threads: int
    data_folder: Path  # registry.data_folder()
    cache_folder: Path  # registry.cache_folder()
    progress: Progress  # while activations are computed, which takes half a minute once
    data_path: Path | None = None  # a text of the member's own, or the one that the spec names by its hash
    model_path: Path | None = None  # the folder that a spec's model "hf:..." names


def evaluator_of(spec: Spec, settings: EvaluatorSettings, machine: Machine) -> LateEvaluator | str:
    """What evaluates this spec's model, or why there is none here."""
    if spec.model in SIZES:
        return _gpt(spec, settings, machine)
    if spec.model != smollm_file.NAME and not spec.model.startswith(HF_PREFIX):
        known = ", ".join([smollm_file.NAME, *SIZES])
        return f"model {spec.model!r} is not known here; known: {known}, {HF_PREFIX}<blake3 hex>"
    if spec.data != sentiment.NAME:
        return f"data {spec.data!r} is not for {spec.model}: it is trained on {sentiment.NAME!r}"
    if machine.data_path is not None:
        return f"{sentiment.NAME!r} is the same for all members: leave out --data"
    sentences = sentiment.load(machine.data_folder, settings.train_sentences, settings.evaluation_sentences)
    if isinstance(sentences, str):
        return sentences
    if spec.model == smollm_file.NAME:
        return _smol(spec, settings, machine, sentences)
    return _hf(spec, settings, machine, sentences)


def smol_problem(data_folder: Path) -> str | None:
    """The line that says what is missing for SmolLM2-135M and the sentiment task; None: nothing is."""
    file = smollm_file.open_file()
    sentences = sentiment.load(data_folder, 2, 2)
    return next((each for each in (file, sentences) if isinstance(each, str)), None)


def _gpt(spec: Spec, settings: EvaluatorSettings, machine: Machine) -> LateEvaluator | str:
    size = SIZES[spec.model]
    if settings.train not in (None, "all"):
        return f"train = {settings.train}: of {spec.model} all parameters are trained; leave it out"
    corpus = data.load(spec.data, 1, settings.batch_size * (settings.context + 1), machine.data_path)
    if isinstance(corpus, str):
        return corpus

    def load() -> Loaded:
        from .gpt_evaluator import GptEvaluator

        return GptEvaluator(size, corpus, settings, machine.device, machine.threads)

    def start(out: "Vector") -> None:
        out[:] = gpt_start(size, spec.seed)

    return LateEvaluator(gpt_layout(size), start, load, machine.cache_folder)


def _smol(
    spec: Spec, settings: EvaluatorSettings, machine: Machine, sentences: sentiment.Sentences
) -> LateEvaluator | str:
    file = smollm_file.open_file()
    if isinstance(file, str):
        return file
    layout = choose(smollm_file.LAYOUT, settings)
    if isinstance(layout, str):
        return layout

    def load() -> Loaded:
        import torch

        from .inner import use_threads
        from .sentiment_evaluator import SentimentEvaluator, questions_of
        from .smol_model import SmolModel

        use_threads(machine.threads)
        tokenizer = file.tokenizer()
        questions = questions_of(sentences, lambda text: tokenizer.encode(text).ids)
        if isinstance(questions, str):
            raise RuntimeError(questions)
        keep = Keep(machine.cache_folder, machine.progress)
        model = SmolModel(file, layout, questions, keep, torch.device(machine.device))
        return SentimentEvaluator(model, questions, settings.batch_size, machine.threads)

    return LateEvaluator(layout, partial(file.first_values, layout, spec.seed), load, machine.cache_folder)


def _hf(
    spec: Spec, settings: EvaluatorSettings, machine: Machine, sentences: sentiment.Sentences
) -> LateEvaluator | str:
    folder = machine.model_path
    if folder is None:
        return f"this swarm trains a model of its owner's ({spec.model}): name your copy of it with --model-dir DIR"
    if importlib.util.find_spec("transformers") is None:
        return TRANSFORMERS_MISSING
    import torch

    from .hf_model import HfModel, hf_first_values, hf_name, hf_task
    from .inner import use_threads
    from .sentiment_evaluator import SentimentEvaluator

    name = hf_name(folder)
    if name is None:
        return f"{folder} cannot be read: name your copy of this swarm's model with --model-dir DIR"
    if name != spec.model:
        return f"{folder} is {name}, the swarm's model is {spec.model}: its files differ"
    prepared = attempt(lambda: hf_task(folder, settings, sentences))
    if isinstance(prepared, Raised):
        return f"{folder} cannot be loaded: {prepared.reason}"
    if isinstance(prepared.result, str):
        return f"{folder}: {prepared.result}"
    layout, questions = prepared.result

    def load() -> Loaded:
        use_threads(machine.threads)
        model = HfModel(folder, layout, questions, torch.device(machine.device))
        return SentimentEvaluator(model, questions, settings.batch_size, machine.threads)

    start = partial(hf_first_values, folder, layout, spec.seed)
    return LateEvaluator(layout, start, load, machine.cache_folder)
