"""A program for test_memory_of_all.py: all that a member does with a state whose every parameter is trained.

It prints "loaded" when the libraries are there and goes on at a line on its standard input. Then it prints the most
anonymous memory that was held beside what was held before, in MiB.

    python one_life.py FOLDER_OF_DATA FOLDER_OF_STATES
"""

import importlib
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from shoal.training import smollm_file
from shoal.training.evaluators import Machine, evaluator_of
from shoal.training.method import Share, Turn
from shoal.training.ports import BytesReader, Payload
from shoal.training.spec import Spec
from shoal.training.zeroth import Zeroth
from shoal.training.zeroth_settings import ZerothSettings

LOADED_FIRST = ["gguf.quants", "shoal.training.sentiment_evaluator", "shoal.training.smol_model"]
MEMBERS = [letter * 52 for letter in "abcd"]
SETTINGS = ZerothSettings(
    way="steps", directions=2, batch_size=2, train="all", train_sentences=16, evaluation_sentences=2, audit_share=1.0
)


class FileReader:
    """A BlobReader (ports.py)."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self.size = path.stat().st_size

    def read(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(length)

    def read_into(self, offset: int, room: memoryview) -> None:
        room[:] = self.read(offset, len(room))


def anonymous_mib() -> float:
    with Path("/proc/self/status").open() as status:
        return sum(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024


def write(path: Path, pieces: Iterable[Payload]) -> None:
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)


def live(data: Path, states: Path) -> None:
    machine = Machine("cpu", 1, data, states, lambda done, texts: None)
    spec = Spec(creator="1" * 52, nonce=bytes(16), model="smollm2-135m", data="sentiment")
    evaluator = evaluator_of(spec, SETTINGS, machine)
    assert not isinstance(evaluator, str), evaluator
    method = Zeroth(spec, SETTINGS, evaluator)
    first, local = method.start(spec)
    first_digest = method.digest(first)
    write(states / "first", method.save(first))
    turn = Turn(1, 0, MEMBERS[0], tuple(MEMBERS), 1, time.monotonic() + 600, time.monotonic, lambda: False)
    work = method.contribute(first, local, turn)
    payload = b"".join(work.payload)
    shares = [Share(1, member, work.samples, 1, 0, BytesReader(payload)) for member in MEMBERS]
    second, _ = method.apply(first, shares)
    assert method.digest(second) != first_digest
    write(states / "second", method.save(second))
    del first
    loaded = method.load(FileReader(states / "first"))  # to audit what began there, when the member is further on
    assert method.digest(loaded) == first_digest
    assert method.audit(loaded, None, shares[0], bytes(32)) == 1.0
    del loaded
    method.evaluate(second)


def main() -> None:
    for name in LOADED_FIRST:
        importlib.import_module(name)
    torch.set_num_threads(1)
    _ = torch.ones(600, 600) @ torch.ones(600, 600)
    file = smollm_file.open_file()
    assert not isinstance(file, str), file
    file.tokenizer()  # which malloc keeps the memory of
    print("loaded", flush=True)
    sys.stdin.readline()
    before, peak = anonymous_mib(), 0.0
    is_over = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not is_over.wait(0.002):
            peak = max(peak, anonymous_mib())

    watching = threading.Thread(target=watch)
    watching.start()
    live(*map(Path, sys.argv[1:]))
    is_over.set()
    watching.join()
    print(peak - before)


if __name__ == "__main__":
    main()
