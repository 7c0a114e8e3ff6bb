"""Two threads meet: the engine's gets a turn's work, the script's the next anchor; both are let go at the end."""

import threading
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from shoal.training.checkpoint import Local, State
from shoal.training.diloco import Diloco
from shoal.training.diloco_settings import DilocoSettings
from shoal.training.local_trainer import Trained
from shoal.training.loop import LoopTrainer, Outer, SwarmEnded, custom_name, model_layout, parameters_of, place
from shoal.training.method import Turn
from shoal.training.spec import Spec

JOIN_S = 20.0  # far more than any of these threads needs


def small_model(seed: int = 0) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -1, 1, generator=generator)
    return model


def trainer_of(model: nn.Module, steps: int = 50) -> LoopTrainer:
    layout = model_layout(model)
    assert not isinstance(layout, str)
    return LoopTrainer(layout, parameters_of(model), DilocoSettings(steps=steps))


def turn(round_: int, is_over: Callable[[], bool] = lambda: False) -> Turn:
    return Turn(round_, round_ - 1, "a", ("a",), 1, float("inf"), lambda: 0.0, is_over)


def in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()
    return thread, results


def script(trainer: LoopTrainer, model: nn.Module, samples: int = 8) -> Callable[[], object]:
    """A training loop whose every step adds 1 to all parameters, until the swarm ends."""

    def run() -> object:
        with Outer(trainer, model) as outer:
            try:
                while True:
                    with torch.no_grad():
                        for parameter in model.parameters():
                            parameter.add_(1)
                    outer.step(samples)
            except SwarmEnded as ended:
                return str(ended)

    return run


def test_each_turn_gets_the_scripts_steps_from_that_turns_anchor() -> None:
    model = small_model()
    trainer = trainer_of(model, steps=5)
    thread, results = in_thread(script(trainer, model))
    for round_, level in ((1, 10.0), (2, -3.0)):
        anchor = np.full(len(trainer.start()), level, np.float32)
        trained = trainer.train(anchor, Local(), turn(round_))
        assert np.array_equal(trained.parameters, anchor + 5)
        assert (trained.samples, trained.metrics["steps"], trained.moments) == (40, 5.0, None)
    trainer.end("no rounds are left")
    thread.join(JOIN_S)
    assert results == ["no rounds are left"]


def test_a_script_whose_round_cannot_be_closed_goes_on_from_where_it_is() -> None:
    model = small_model()
    trainer = trainer_of(model, steps=5)
    spec = Spec(creator="1" * 52, nonce=bytes(16), model=custom_name(trainer.layout))
    made = Diloco(spec, trainer.settings, trainer)
    thread, _ = in_thread(script(trainer, model))
    state, local = made.start(spec)
    moved: list[np.ndarray] = []
    for round_ in (1, 2, 3):
        work = made.contribute(state, local, turn(round_))
        local = work.local
        moved.append(np.frombuffer(work.payload[1], "<f4"))
    assert np.allclose(moved, -5, atol=1e-5)
    assert local.ahead is not None
    assert np.allclose(local.ahead, -15, atol=1e-5)
    after = State(1, np.full(len(state.parameters), 100, np.float32), state.momentum)
    work = made.contribute(after, made.settle(local, after, False), turn(2))
    assert np.allclose(np.frombuffer(work.payload[1], "<f4"), -5, atol=1e-4)
    trainer.end("enough")
    thread.join(JOIN_S)


def test_the_anchor_is_copied_so_that_the_script_cannot_change_it() -> None:
    model = small_model()
    trainer = trainer_of(model, steps=2)
    thread, _ = in_thread(script(trainer, model))
    anchor = trainer.start()
    before = anchor.copy()
    trainer.train(anchor, Local(), turn(1))
    assert np.array_equal(anchor, before)
    trainer.end("enough")
    thread.join(JOIN_S)


def test_a_round_that_closed_without_the_script_gives_no_samples_and_the_script_goes_on() -> None:
    model = small_model()
    trainer = trainer_of(model, steps=5)
    anchor = trainer.start()
    missed = trainer.train(anchor, Local(step_s=0.5), turn(1, is_over=lambda: True))
    assert (missed.samples, missed.step_s) == (0, 0.5)
    thread, _ = in_thread(script(trainer, model))
    assert trainer.train(anchor, Local(), turn(2)).samples == 40
    trainer.end("enough")
    thread.join(JOIN_S)


def test_a_result_that_comes_too_late_is_dropped() -> None:
    trainer = trainer_of(small_model(), steps=1)
    waiting, results = in_thread(lambda: trainer.next_task())
    trainer.train(trainer.start(), Local(), turn(1, is_over=lambda: bool(results)))
    waiting.join(JOIN_S)
    task = results[0]
    late = Trained(trainer.start() + 9, 8, None, None, {})
    trainer.hand_over(task, late)  # type: ignore[arg-type]
    missed = trainer.train(trainer.start(), Local(), turn(2, is_over=lambda: True))
    assert missed.samples == 0


def test_a_script_that_leaves_frees_the_engine() -> None:
    model = small_model()
    trainer = trainer_of(model, steps=5)
    thread, results = in_thread(lambda: trainer.train(trainer.start(), Local(), turn(1)))
    with Outer(trainer, model) as outer:
        outer.step()
        assert outer.round == 1
    thread.join(JOIN_S)
    assert isinstance(results[0], Trained)
    assert results[0].samples == 0


def test_a_swarm_that_ended_says_why_instead_of_waiting() -> None:
    model = small_model()
    trainer = trainer_of(model)
    trainer.end("the node stopped")
    trainer.end("and again")
    with pytest.raises(SwarmEnded, match="the node stopped"), Outer(trainer, model):
        pass


def test_the_swarms_end_reaches_a_script_that_waits() -> None:
    model = small_model()
    outer = Outer(trainer_of(model), model)

    def wait() -> object:
        try:
            return outer.__enter__()
        except SwarmEnded as ended:
            return str(ended)

    thread, results = in_thread(wait)
    outer.end("all rounds are done")
    thread.join(JOIN_S)
    assert results == ["all rounds are done"]


def test_a_step_outside_of_the_with_block_is_a_mistake() -> None:
    model = small_model()
    with pytest.raises(RuntimeError, match="with block"):
        Outer(trainer_of(model), model).step()


def test_what_is_shared_are_the_parameters_that_learn() -> None:
    model = small_model()
    model[0].weight.requires_grad_(False)
    layout = model_layout(model)
    assert not isinstance(layout, str)
    assert [tensor.name for tensor in layout] == ["0.bias", "1.weight", "1.bias", "2.weight", "2.bias"]
    assert custom_name(layout) != custom_name(layout[1:])
    flat = parameters_of(model)
    weight = model[2].weight
    place(flat * 2, layout, model)
    assert model[2].weight is weight
    assert np.array_equal(parameters_of(model), flat * 2)


def test_a_model_that_cannot_be_shared_says_why() -> None:
    assert "float32" in str(model_layout(nn.Linear(2, 2, dtype=torch.bfloat16)))
    assert "no parameters" in str(model_layout(nn.ReLU()))


def test_inner_optimizers_keep_their_hold_and_the_model_learns() -> None:
    """Two scripts, each with half of the data and its own SGD, and a swarm that takes their mean."""
    inputs = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    targets = inputs @ torch.tensor([[1.0, -2.0], [0.5, 0.0], [0.0, 3.0]])
    models = [nn.Linear(3, 2), nn.Linear(3, 2)]
    for parameter in (parameter for model in models for parameter in model.parameters()):
        nn.init.zeros_(parameter)
    trainers = [trainer_of(model, steps=5) for model in models]

    def learn(index: int) -> None:
        optimizer = torch.optim.SGD(models[index].parameters(), lr=0.1)
        with Outer(trainers[index], models[index]) as outer:
            try:
                while True:
                    optimizer.zero_grad()
                    half = slice(32 * index, 32 * index + 32)
                    torch.autograd.backward(nn.functional.mse_loss(models[index](inputs[half]), targets[half]))
                    optimizer.step()  # pyright: ignore[reportUnknownMemberType]
                    outer.step(32)
            except SwarmEnded:
                return

    scripts = [in_thread(partial(learn, index))[0] for index in range(2)]
    anchor = trainers[0].start()
    for round_ in range(1, 25):
        engines = [in_thread(partial(trainer.train, anchor, Local(), turn(round_))) for trainer in trainers]
        for thread, _ in engines:
            thread.join(JOIN_S)
        results = [trained.parameters for _, (trained,) in engines if isinstance(trained, Trained)]
        anchor = (results[0] + results[1]) / np.float32(2)
    for trainer, thread in zip(trainers, scripts, strict=True):
        trainer.end("done")
        thread.join(JOIN_S)
    place(anchor, trainers[0].layout, models[0])
    assert float(nn.functional.mse_loss(models[0](inputs), targets).detach()) < 1e-2
