"""The built-in inner loop: it learns, repeats, stops when told, and goes on from a saved optimizer."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch

from shoal.training import data
from shoal.training.checkpoint import Local, load_local, save_local
from shoal.training.diloco_settings import DilocoSettings
from shoal.training.method import Turn
from shoal.training.models import GptSize
from shoal.training.ports import BytesReader
from shoal.training.spec import Spec
from shoal.training.trainer import GptTrainer

SPEC = Spec(creator="1" * 52, nonce=bytes(16), seed=1, rounds_max=10)
SETTINGS = DilocoSettings(steps=10, batch_size=4, context=32, lr=5e-3, pieces=4, validation_windows=20)
SIZE = GptSize(width=32, layers=2, heads=2)
TEXT = np.frombuffer(b"to be, or not to be, that is the question: " * 400, np.uint8)
CORPUS = data.Corpus(TEXT[:16_000], TEXT[16_000:], 4, None)


def trainer(settings: DilocoSettings = SETTINGS, threads: int = 1) -> GptTrainer:
    return GptTrainer(SPEC, settings, SIZE, CORPUS, "cpu", threads)


def turn(
    round_: int = 1,
    seed: int = 5,
    deadline_at: float = float("inf"),
    clock: Callable[[], float] = lambda: 0.0,
    is_over: Callable[[], bool] = lambda: False,
) -> Turn:
    return Turn(round_, round_ - 1, "a", ("a", "b"), seed, deadline_at, clock, is_over)


def ticking(step_s: float) -> Callable[[], float]:
    """A clock that advances at every look, which happens once per step."""
    times: Iterator[float] = iter(step_s * look for look in range(10_000))
    return lambda: next(times)


def test_training_learns_and_leaves_the_anchor_alone() -> None:
    made = trainer(replace_settings(steps=60))
    anchor = made.start()
    before = anchor.copy()
    trained = made.train(anchor, Local(), turn())
    assert np.array_equal(anchor, before)
    assert made.evaluate(trained.parameters)["validation_loss"] < made.evaluate(anchor)["validation_loss"] - 1
    assert trained.samples == 60 * 4
    assert trained.metrics["tokens"] == 60 * 4 * 32
    assert trained.metrics["steps"] == 60


def replace_settings(**changes: object) -> DilocoSettings:
    return msgspec.structs.replace(SETTINGS, **changes)


def test_the_same_turn_gives_the_same_bits_and_another_seed_others() -> None:
    made = trainer()
    first, again, other = (made.train(made.start(), Local(), turn(seed=seed)).parameters for seed in (5, 5, 6))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


def test_an_optimizer_saved_and_loaded_goes_on_as_if_it_never_stopped() -> None:
    made = trainer()
    first = made.train(made.start(), Local(), turn())
    kept = Local(first.moments, first.step_s)
    loaded = load_local(BytesReader(b"".join(save_local(kept, made.layout))), made.layout)
    without, after = (made.train(first.parameters, local, turn(round_=2)) for local in (kept, loaded))
    assert without.parameters.tobytes() == after.parameters.tobytes()
    assert after.moments is not None
    assert after.moments.step_count == 20
    fresh = made.train(first.parameters, Local(), turn(round_=2))
    assert fresh.parameters.tobytes() != after.parameters.tobytes()


def test_training_does_not_change_the_optimizer_it_was_given() -> None:
    made = trainer()
    moments = made.train(made.start(), Local(), turn()).moments
    assert moments is not None
    first = moments.first.copy()
    made.train(made.start(), Local(moments, None), turn(round_=2))
    assert np.array_equal(moments.first, first)


def test_the_deadline_ends_a_turn_of_an_elastic_swarm() -> None:
    made = trainer(replace_settings(steps_min=2, steps_max=40))
    trained = made.train(made.start(), Local(), turn(deadline_at=15.0, clock=ticking(1.0)))
    assert 10 <= trained.metrics["steps"] <= 15
    assert trained.step_s is not None
    assert 0.8 < trained.step_s < 1.3
    late = made.train(made.start(), Local(), turn(deadline_at=-1.0, clock=ticking(1.0)))
    assert late.metrics["steps"] == 2


def test_a_round_that_closed_without_this_member_ends_its_turn() -> None:
    made = trainer()
    asked = iter([False, False, True])
    trained = made.train(made.start(), Local(), turn(is_over=lambda: next(asked)))
    assert trained.metrics["steps"] == 3


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_is_the_owners(threads: int) -> None:
    made = trainer(threads=threads)
    made.evaluate(made.start())
    assert torch.get_num_threads() == threads


def test_it_writes_and_repeats_itself_from_a_seed() -> None:
    made = trainer()
    texts = [made.generate(made.start(), b"to be", 20, 1.0, seed) for seed in (3, 3, 4)]
    assert isinstance(texts[0], bytes)
    assert len(texts[0]) == 20
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_a_gpu_it_learns_too() -> None:
    made = GptTrainer(SPEC, replace_settings(steps=60), SIZE, CORPUS, "cuda", 1)
    trained = made.train(made.start(), Local(), turn())
    again = made.train(trained.parameters, Local(trained.moments, None), turn(round_=2))
    assert made.evaluate(again.parameters)["validation_loss"] < made.evaluate(made.start())["validation_loss"] - 1
    assert isinstance(made.generate(again.parameters, b"to be", 5, 1.0, 3), bytes)


def test_the_global_random_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    made = trainer()
    trained = made.train(made.start(), Local(), turn())
    made.evaluate(trained.parameters)
    made.generate(trained.parameters, b"to be", 5, 1.0, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_samples_without_a_text_of_ones_own_come_from_ones_shard_alone() -> None:
    """A member whose pieces hold another language learns that language."""
    mine = set(data.own_pieces(4, "a", ("a", "b")))
    text = np.concatenate([np.full(4000, 65 if piece in mine else 66, np.uint8) for piece in range(4)])
    made = GptTrainer(SPEC, SETTINGS, SIZE, replace(CORPUS, training=text), "cpu", 1)
    trained = made.train(made.start(), Local(), turn())
    assert made.generate(trained.parameters, b"A", 5, 0.0, 0) == b"AAAAA"
