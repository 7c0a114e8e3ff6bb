"""A model, its loss and its data from the owner's own Python file, registered under the file's hash.

Nothing of the file is ever sent. A spec names it "entry:<BLAKE3 in hex>", and a member takes part by having the very
same file: nothing runs but what the owner has named with --entry, after its hash was found to be the spec's.

The file defines

    build() -> nn.Module                            parameters in float32; torch's generator starts alike each time
    loss(model, batch) -> Tensor                    a scalar
    batches(seed, member, members) -> Iterator      without end; `seed` differs by member and round, members are sorted
    evaluate(model) -> dict[str, float]             optional

The first parameters are the creator's `build()`; the spec's setting `start` holds their digest. (Values by a rule of
ours from names and shapes would need no such digest, but would overrule every initialization that people choose with
care, and pretrained weights.)
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from blake3 import blake3
from torch import Tensor, nn

from .attempt import Raised, attempt
from .checkpoint import Local
from .diloco_settings import DilocoSettings
from .inner import Inner, run_turn, use_threads
from .local_trainer import Trained
from .loop import model_layout, parameters_of, place
from .method import Turn
from .spec import Spec
from .tensors import Layout

if TYPE_CHECKING:
    from .tensors import Vector

ENTRY_PREFIX = "entry:"
FIRST_SEED = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """What a file defines."""

    build: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Any], Tensor]
    batches: Callable[[int, str, tuple[str, ...]], Iterator[Any]]
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None


def entry_name(path: Path) -> str | None:
    """The spec's name for this file, or None if it cannot be read."""
    try:
        return ENTRY_PREFIX + blake3(path.read_bytes()).hexdigest()
    except OSError:
        return None


def load_entry(path: Path, model_name: str) -> Entry | str:
    """Run the owner's file, if it is the one that `model_name` names, and take what it defines; or why it can't be.

    It is read once: what runs is what was hashed, and no compiled copy that lies beside it.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    if ENTRY_PREFIX + blake3(source).hexdigest() != model_name:
        return f"{path} is not the file of this swarm, whose BLAKE3 is {model_name.removeprefix(ENTRY_PREFIX)}"
    module = ModuleType("shoal_entry")
    module.__file__ = str(path)
    ran = attempt(lambda: exec(compile(source, str(path), "exec"), vars(module)))
    if isinstance(ran, Raised):
        return f"{path} does not run: {ran.reason}"
    missing = [name for name in ("build", "loss", "batches") if not callable(getattr(module, name, None))]
    if missing:
        return f"{path} does not define {', '.join(missing)}"
    return Entry(module.build, module.loss, module.batches, getattr(module, "evaluate", None))


def first_model(entry: Entry) -> nn.Module | str:
    """The model with its first values, equal whenever this machine builds it, also after a restart; or why there is
    none.

    Without a fixed start of torch's generator a file that leaves the values to torch would give others each time, and
    not even the creator would have the state its spec names. The generator is put back as it was.
    """
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(FIRST_SEED)
    built = attempt(entry.build)
    torch.set_rng_state(before)
    return f"build() fails: {built.reason}" if isinstance(built, Raised) else built.result


class EntryTrainer:
    """A LocalTrainer (local_trainer.py).

    Raises:
        ValueError: the file's `build` fails, or what it builds can't be shared.
    """

    def __init__(self, spec: Spec, settings: DilocoSettings, entry: Entry, device: str, threads: int) -> None:
        self._spec = spec
        self._settings = settings
        self._entry = entry
        self._device = torch.device(device)
        self._threads = threads
        first = first_model(entry)
        if isinstance(first, str):
            raise ValueError(first)
        layout = model_layout(first)
        if isinstance(layout, str):
            raise ValueError(layout)
        self._layout = layout
        self._first = parameters_of(first)

    @property
    def layout(self) -> Layout:
        return self._layout

    def start(self) -> "Vector":
        return self._first

    def train(self, anchor: "Vector", local: Local, turn: Turn) -> Trained:
        use_threads(self._threads)
        inner = Inner(anchor, local, self._settings, self._device)
        model = self._model(anchor)
        self._bind(model, inner)
        batches = self._entry.batches(turn.seed, turn.member, turn.members)

        def loss(step: int) -> Tensor:
            return self._entry.loss(model, next(batches))

        return run_turn(inner, loss, self._settings, self._spec.rounds_max, turn, local.step_s, 1)

    def evaluate(self, parameters: "Vector") -> Mapping[str, float]:
        if self._entry.evaluate is None:
            return {}
        use_threads(self._threads)
        with torch.no_grad():
            return self._entry.evaluate(self._model(parameters).eval())

    def generate(self, parameters: "Vector", prompt: bytes, count: int, temperature: float, seed: int) -> bytes | str:
        return "this swarm trains a model from a file of its owner, which does not say how to write text"

    def _model(self, parameters: "Vector") -> nn.Module:
        model = self._entry.build().to(self._device)
        place(parameters, self._layout, model)
        return model

    def _bind(self, model: nn.Module, inner: Inner) -> None:
        """Make the model's parameters and gradients views of the flat vectors that the optimizer steps."""
        named = dict(model.named_parameters())
        start = 0
        for tensor in self._layout:
            parameter = named[tensor.name]
            stop = start + parameter.numel()
            parameter.data = inner.flat[start:stop].view(tensor.shape)
            parameter.grad = inner.gradient[start:stop].view(tensor.shape)
            start = stop
