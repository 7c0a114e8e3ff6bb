"""Simulated swarms that train a very small GPT by DiLoCo, whose members do one another's turns again."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from shoal.training import data
from shoal.training.checkpoint import Local, State
from shoal.training.diloco import Diloco
from shoal.training.diloco_settings import DilocoSettings, settings_of
from shoal.training.method import Turn, Work
from shoal.training.models import GptSize
from shoal.training.payload import Delta, open_payload, write_payload
from shoal.training.ports import BytesReader
from shoal.training.spec import SignedSpec, Spec, open_spec
from shoal.training.trainer import GptTrainer
from shoal.transport.blobs import BlobRef
from tests.sim.harness import Disk, Node, make_nodes, make_spec

SIZE = GptSize(width=16, layers=1, heads=1)
SETTINGS = {"steps": 4, "batch_size": 2, "context": 16, "pieces": 8, "audit": "public", "audit_share": 1.0}
TEXT = np.frombuffer(bytes(range(32, 122)) * 200, np.uint8)
CORPUS = data.Corpus(TEXT[:16_000], TEXT[16_000:], 8, None)

Change = Callable[[np.ndarray], np.ndarray]


class Changing(Diloco):
    """Trains as it should, and contributes something else."""

    change: Change

    def contribute(self, state: State, local: Local, turn: Turn) -> Work[Local]:
        work = super().contribute(state, local, turn)
        if not work.samples:
            return work
        codec, layout = self._settings.codec, self._layout
        delta = open_payload(BytesReader(b"".join(map(bytes, work.payload))), codec, layout)
        assert isinstance(delta, Delta)
        changed = self.change(delta.values(0, delta.count)).astype(np.float32)
        return replace(work, payload=write_payload(codec, layout, changed))


class Forgetful(Disk):
    """Loses the local values of some rounds, so that nobody is given them."""

    def __init__(self, rounds: set[int]) -> None:
        super().__init__()
        self.rounds = rounds
        self.lost_count = 0

    def put(self, data: bytes, pin: str) -> BlobRef:
        _, kind, round = pin.split("/")
        if kind != "local" or int(round) not in self.rounds:
            return super().put(data, pin)
        self.lost_count += 1
        return Disk().put(data, pin)


def people(
    folder: Path, count: int, changing: dict[int, Change] | None = None, **settings: object
) -> tuple[list[Node], SignedSpec]:
    """Members of a swarm; some contribute what they did not train."""
    nodes = make_nodes(folder, count)
    signed = make_spec(nodes, members_start=count, settings=SETTINGS | settings)
    spec = open_spec(signed)
    assert isinstance(spec, Spec)
    parsed = settings_of(spec)
    assert isinstance(parsed, DilocoSettings)
    for number, node in enumerate(nodes):
        trainer = GptTrainer(spec, parsed, SIZE, CORPUS, "cpu", 1)
        change = (changing or {}).get(number)
        node.method = Diloco(spec, parsed, trainer) if change is None else Changing(spec, parsed, trainer)
        if change is not None:
            node.method.change = change
    return nodes, signed
