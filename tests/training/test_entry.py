"""A file of the owner's own: run only when its hash is the spec's, and trained like any other model."""

import os
import py_compile
from pathlib import Path

import numpy as np
import pytest

from shoal.training import methods
from shoal.training.checkpoint import Local
from shoal.training.diloco import Diloco
from shoal.training.entry import entry_name, load_entry
from shoal.training.method import Share, Turn
from shoal.training.ports import BytesReader
from shoal.training.spec import Setting, Spec

FILE = '''
"""Learns y = 3 x - 1 from batches that differ by seed."""
import torch

def build():
    model = torch.nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(0.25)
        model.bias.fill_(0.5)
    return model

def loss(model, batch):
    return torch.nn.functional.mse_loss(model(batch), 3 * batch - 1)

def batches(seed, member, members):
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn(16, 1, generator=generator)

def evaluate(model):
    inputs = torch.linspace(-1, 1, 9)[:, None]
    return {"validation_loss": float(loss(model, inputs))}
'''


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(FILE)
    return file


def described(path: Path) -> methods.OwnModel:
    own = methods.describe_entry(path)
    assert isinstance(own, methods.OwnModel), own
    return own


def spec_for(path: Path, **settings: Setting) -> Spec:
    own = described(path)
    return Spec(creator="1" * 52, nonce=bytes(16), model=own.model, settings={**own.settings, **settings})


def test_a_file_is_named_by_its_hash(path: Path) -> None:
    name = entry_name(path)
    assert name == described(path).model
    path.write_text(FILE + "\n")
    assert entry_name(path) != name
    assert entry_name(path.with_name("missing.py")) is None


def test_its_model_trains_from_the_first_state_that_the_spec_fixes(path: Path) -> None:
    spec = spec_for(path, steps=80, lr=0.1, lr_rounds=5)
    made = methods.build(spec, methods.MemberOptions(entry_path=path))
    assert isinstance(made, Diloco)
    state, local = made.start(spec)
    assert made.digest(state) == made.start_digest(spec)
    assert state.parameters.tolist() == [0.25, 0.5]
    turn = Turn(1, 0, "a", ("a",), 7, float("inf"), lambda: 0.0, lambda: False)
    work = made.contribute(state, local, turn)
    assert made.check(spec, 1, "a", work.samples, BytesReader(b"".join(work.payload))) is None
    assert b"".join(made.contribute(state, local, turn).payload) == b"".join(work.payload)
    assert work.samples == 80
    assert isinstance(work.local, Local)
    assert work.local.moments is not None
    assert np.all(work.local.moments.second > 0)
    after, _ = made.apply(state, [Share(1, "a", work.samples, 1, 0, BytesReader(b"".join(work.payload)))])
    assert made.evaluate(after)["validation_loss"] < made.evaluate(state)["validation_loss"] - 1


def test_another_file_is_not_run(path: Path) -> None:
    spec = spec_for(path)
    other = path.with_name("other.py")
    other.write_text("raise SystemExit('this ran')")
    reason = methods.build(spec, methods.MemberOptions(entry_path=other))
    assert isinstance(reason, str)
    assert "not the file of this swarm" in reason
    missing = methods.build(spec, methods.MemberOptions())
    assert isinstance(missing, str)
    assert "--entry FILE.py" in missing


def test_a_file_that_lacks_something_says_what(path: Path) -> None:
    path.write_text("def build(): ...")
    name = entry_name(path)
    assert name is not None
    assert load_entry(path, name) == f"{path} does not define loss, batches"
    assert "cannot be read" in str(methods.describe_entry(path.with_name("gone.py")))


def test_a_file_that_leaves_its_first_values_to_torch_gives_the_same_each_time(path: Path) -> None:
    path.write_text(FILE.replace("model.weight.fill_(0.25)", "pass").replace("model.bias.fill_(0.5)", "pass"))
    spec = spec_for(path)
    method = methods.build(spec, methods.MemberOptions(entry_path=path))
    assert isinstance(method, Diloco)
    state, _ = method.start(spec)
    assert method.digest(state) == method.start_digest(spec)
    assert described(path) == described(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import nothing_like_this", "nothing_like_this"),
        ("build = (", "SyntaxError"),
        ("x = 1", "does not define build, loss, batches"),
        (FILE + "\ndef build():\n    raise MemoryError('too large')\n", "build() fails: MemoryError: too large"),
    ],
)
def test_a_file_that_fails_is_a_reason_and_not_the_nodes_end(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "model.py"
    path.write_text(text)
    told = methods.describe_entry(path)
    assert isinstance(told, str)
    assert reason in told
    assert str(path) in told


def test_what_runs_is_what_was_hashed_whatever_lies_in_pycache(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    good, evil = "build = loss = batches = print\n", "build = loss = batches = repr \n"
    path.write_text(evil[: len(good)])
    os.utime(path, (1_000_000_000, 1_000_000_000))
    py_compile.compile(str(path))
    path.write_text(good)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    name = entry_name(path)
    assert name is not None
    entry = load_entry(path, name)
    assert not isinstance(entry, str)
    assert entry.build.__name__ == "print"
