"""Simulated swarms that train a noisy quadratic by DiLoCo, some of whose members forge what they contribute."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shoal.training.checkpoint import Local, State
from shoal.training.diloco import Diloco
from shoal.training.diloco_settings import DilocoSettings, settings_of
from shoal.training.local_trainer import Trained
from shoal.training.method import Turn, Work
from shoal.training.payload import open_payload, write_payload
from shoal.training.ports import BytesReader
from shoal.training.spec import SignedSpec, Spec, open_spec
from shoal.training.tensors import Layout, TensorShape, element_count
from shoal.transport.wire import Malformed
from tests.sim.harness import Node, make_nodes, make_spec

LAYOUT: Layout = (TensorShape("a", (16, 16)), TensorShape("b", (40,)))
COUNT = element_count(LAYOUT)
SETTINGS: dict[str, Any] = {"rule": "centered_clipping", "outer_lr": 0.7, "outer_momentum": 0.0}

Forge = Callable[[np.ndarray, Turn], np.ndarray]  # of an honest pseudo-gradient; (COUNT,) float32


class Downhill:
    """A LocalTrainer: four steps towards 1 in every value, on samples that are off, each member's otherwise."""

    layout = LAYOUT

    def __init__(self, noise: float = 0.5) -> None:
        self.noise = noise

    def start(self) -> np.ndarray:
        return np.zeros(COUNT, np.float32)

    def train(self, anchor: np.ndarray, local: Local, turn: Turn) -> Trained:
        random, at = np.random.default_rng(turn.seed), anchor.copy()
        for _ in range(4):
            target = 1 + self.noise * random.standard_normal(COUNT)
            at += np.float32(0.1) * (target.astype(np.float32) - at)
        return Trained(at, 8, None, 0.1, {"loss": loss_at(at)})

    def evaluate(self, parameters: np.ndarray) -> Mapping[str, float]:
        return {"validation_loss": loss_at(parameters)}

    def generate(self, parameters: np.ndarray, prompt: bytes, count: int, temperature: float, seed: int) -> bytes | str:
        return "a quadratic writes nothing"


class Forging(Diloco):
    """Sends other values than it found."""

    forge: Forge

    def contribute(self, state: State, local: Local, turn: Turn) -> Work[Local]:
        work = super().contribute(state, local, turn)
        payload = BytesReader(b"".join(bytes(piece) for piece in work.payload))
        delta = open_payload(payload, self._settings.codec, LAYOUT)
        assert not isinstance(delta, Malformed)
        forged = self.forge(delta.values(0, COUNT), turn).astype(np.float32)
        return Work(write_payload(self._settings.codec, LAYOUT, forged), work.samples, work.local, work.metrics)


def loss_at(parameters: np.ndarray) -> float:
    return float(((parameters.astype(np.float64) - 1) ** 2).mean() / 2)


def backwards(delta: np.ndarray, turn: Turn) -> np.ndarray:
    return -delta


def drawn(delta: np.ndarray, turn: Turn) -> np.ndarray:
    raw = np.random.default_rng(turn.seed).standard_normal(COUNT)
    scale = float(np.linalg.norm(delta) / np.linalg.norm(raw))
    return raw * scale


def huge(delta: np.ndarray, turn: Turn) -> np.ndarray:
    return delta * np.float32(1000)


def nan(delta: np.ndarray, turn: Turn) -> np.ndarray:
    return delta * np.float32("nan")


def people(
    folder: Path, count: int, liars: Mapping[int, Forge], spec: Mapping[str, object] | None = None, **settings: object
) -> tuple[list[Node], SignedSpec]:
    nodes = make_nodes(folder, count)
    values: dict[str, object] = {"members_start": count, "settings": SETTINGS | settings, **(spec or {})}
    signed = make_spec(nodes, **values)
    for number, node in enumerate(nodes):
        node.method = method_of(signed, liars.get(number))
    return nodes, signed


def method_of(signed: SignedSpec, forge: Forge | None = None) -> Diloco:
    spec = open_spec(signed)
    assert isinstance(spec, Spec)
    parsed = settings_of(spec)
    assert isinstance(parsed, DilocoSettings)
    if forge is None:
        return Diloco(spec, parsed, Downhill())
    forging = Forging(spec, parsed, Downhill())
    forging.forge = forge
    return forging


def banned(node: Node) -> set[str]:
    view = node.running.membership()
    return set() if view is None else {row.peer for row in view.members if row.banned_until is not None}


def trust(node: Node, other: Node) -> float:
    view = node.running.membership()
    assert view is not None
    return next(row.trust for row in view.members if row.peer == other.peer_id)
