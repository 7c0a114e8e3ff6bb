"""From a spec to the method that carries it out, or to the one line that says why this machine cannot."""

import importlib
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from . import data, registry, zeroth_settings
from .checkpoint import Local
from .diloco import Diloco, start_setting
from .diloco_settings import DilocoSettings, settings_of
from .evaluators import Machine, evaluator_of
from .founding_service import Restarts
from .late import LateTrainer
from .local_trainer import Examines, LocalTrainer
from .method import Method
from .models import SIZES, gpt_layout, gpt_start, memory_bytes
from .payload import payload_bytes
from .spec import Setting, Spec
from .sweep_service import sweep_of
from .tensors import Layout
from .tried import payload_bytes as payload_bytes_of
from .trunk_service import Progress
from .zeroth import Zeroth
from .zeroth_settings import ZerothSettings

if TYPE_CHECKING:
    from torch import nn

    from .loop import Outer

VERSIONS = {"diloco": 1, "zeroth": 1}  # the newest of each method that this Shoal speaks
TORCH_MISSING = "training needs PyTorch, which is not installed here: pip install torch"
CUSTOM_PREFIX, ENTRY_PREFIX = "custom:", "entry:"


@dataclass(frozen=True, slots=True)
class MemberOptions:
    """What a member decides for itself."""

    device: str = "cpu"  # or "cuda", "cuda:1"; "auto": the fastest that is here
    threads: int = 1
    data_path: Path | None = None  # a text to train on in place of the swarm's shard
    entry_path: Path | None = None  # the file that a spec's model "entry:..." names
    model_path: Path | None = None  # the folder that a spec's model "hf:..." names
    progress: Progress = lambda done, total: None  # of what is computed once, before training; from any thread


@dataclass(frozen=True, slots=True)
class OwnModel:
    """What a spec says of a model that people bring themselves."""

    model: str  # the spec's `model`
    settings: Mapping[str, Setting]  # to be added to the spec's settings


def build(spec: Spec, options: MemberOptions) -> Method[Any, Local] | str:
    """The method for this spec on this machine, or the reason why there is none."""
    if spec.method == "zeroth":
        return _version_problem(spec) or _build_zeroth(spec, options)
    settings = _settings(spec)
    if isinstance(settings, str):
        return settings
    if spec.model.startswith(CUSTOM_PREFIX):
        return "this swarm trains a model that scripts bring: join it from one, with shoal.join(...)"
    problem = _audit_problem(spec, settings, options) or device_problem(options.device)
    if problem:
        return problem
    if spec.model.startswith(ENTRY_PREFIX):
        return _build_entry(spec, settings, options)
    trainer = gpt_trainer(spec, options)
    return trainer if isinstance(trainer, str) else Diloco(spec, settings, trainer, sweep_of(options.threads))


def build_loop(spec: Spec, model: "nn.Module") -> "tuple[Diloco, Outer] | str":
    """The method whose inner loop is a script's own, and what that script calls; or why its model does not fit."""
    import torch

    from .loop import LoopTrainer, Outer, custom_name, model_layout, parameters_of

    settings = _settings(spec)
    if isinstance(settings, str):
        return settings
    layout = model_layout(model)
    if isinstance(layout, str):
        return layout
    if custom_name(layout) != spec.model:
        return f"this script's model is {custom_name(layout)}, the swarm's is {spec.model}: names or shapes differ"
    problem = _audit_problem(spec, settings, MemberOptions()) or _payload_problem(spec, settings, layout)
    if problem:
        return problem
    trainer = LoopTrainer(layout, parameters_of(model), settings)
    sweep = sweep_of(torch.get_num_threads())  # the script waits while a round is aggregated
    return Diloco(spec, settings, trainer, sweep), Outer(trainer, model)


def describe_model(model: "nn.Module") -> OwnModel | str:
    """What to put into the spec of a swarm that trains this model from scripts, or why it cannot be."""
    from .loop import custom_name, model_layout, parameters_of

    layout = model_layout(model)
    if isinstance(layout, str):
        return layout
    return OwnModel(custom_name(layout), {"start": start_setting(parameters_of(model), layout)})


def describe_entry(path: Path) -> OwnModel | str:
    """What to put into the spec of a swarm that trains what this file of the owner's defines. Runs the file."""
    problem = device_problem("cpu")
    if problem:
        return problem
    from .entry import entry_name, first_model, load_entry
    from .loop import model_layout, parameters_of

    name = entry_name(path)
    if name is None:
        return f"{path} cannot be read"
    entry = load_entry(path, name)
    if isinstance(entry, str):
        return entry
    model = first_model(entry)
    if isinstance(model, str):
        return f"{path}: {model}"
    layout = model_layout(model)
    if isinstance(layout, str):
        return f"{path}: {layout}"
    return OwnModel(name, {"start": start_setting(parameters_of(model), layout)})


def describe_folder(path: Path) -> str | None:
    """The spec's name for the language model in a folder of the owner's; None if it cannot be read."""
    from .hf_model import hf_name

    return hf_name(path)


def describe_state(method: Restarts, state: Any) -> Mapping[str, Setting]:
    """What to put into the settings of a swarm that goes on from this state: its members start from it alone.

    Whoever creates the swarm has to have `method.restart(state)`, and the others fetch that from it.
    """
    return {"start": method.digest(method.restart(state)).hex()}


def gpt_trainer(spec: Spec, options: MemberOptions) -> LocalTrainer | str:
    """The built-in trainer for a spec, or why this machine cannot have it."""
    settings = _settings(spec)
    if isinstance(settings, str):
        return settings
    size = SIZES.get(spec.model)
    if size is None:
        return f"model {spec.model!r} is not known here; known: {', '.join(SIZES)}"
    problem = (
        device_problem(options.device)
        or _payload_problem(spec, settings, gpt_layout(size))
        or _memory_problem(spec.model, memory_bytes(size, settings.batch_size, settings.context))
    )
    if problem:
        return problem
    window_bytes = settings.context + 1
    corpus = data.load(spec.data, settings.pieces, settings.batch_size * window_bytes, options.data_path)
    if isinstance(corpus, str):
        return corpus
    if len(corpus.training) // settings.pieces < window_bytes:
        return f"data {spec.data!r} in {settings.pieces} pieces is too short for windows of {window_bytes} bytes"

    def load() -> Examines:
        from .trainer import GptTrainer

        return GptTrainer(spec, settings, size, corpus, device_of(options), options.threads)

    return LateTrainer(gpt_layout(size), partial(gpt_start, size, spec.seed), load)


def load_trainer() -> None:
    """Load what a built-in model trains with: more than a second, which need not come between two other things."""
    importlib.import_module("shoal.training.trainer")


def device_of(options: MemberOptions) -> str:
    """Where to train."""
    if options.device != "auto":
        return options.device
    return "cpu" if device_problem("cuda") else "cuda"


def with_settings(spec: Spec, **changes: Setting) -> Spec:
    """`spec` with some of its method's settings changed."""
    return msgspec.structs.replace(spec, settings=dict(sorted({**spec.settings, **changes}.items())))


def device_problem(device: str) -> str | None:
    """Why training cannot run on `device`, or None if it can."""
    if importlib.util.find_spec("torch") is None:
        return TORCH_MISSING
    if device in ("cpu", "auto"):
        return None  # without loading torch: a newcomer has better things to do
    import torch

    try:
        kind = torch.device(device)
    except RuntimeError:
        return f"device {device!r} is not one that torch knows: use cpu, cuda or cuda:N"
    if kind.type not in ("cpu", "cuda"):
        return f"device {device!r} is not supported: use cpu, cuda or cuda:N"
    count = torch.cuda.device_count()
    known = {"cuda", *(f"cuda:{index}" for index in range(count))} if count else set[str]()
    if kind.type == "cuda" and device not in known:  # torch itself takes cuda:256 for cuda:0
        return f"device {device!r} is not here: torch sees {count} CUDA devices"
    return None


def available_memory_bytes() -> int | None:
    """What programs can still have without swapping; None where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def zeroth_problem(spec: Spec, options: MemberOptions) -> str | None:
    """Why this machine cannot carry out a spec of the method zeroth; None if it can."""
    built = _build_zeroth(spec, options)
    return built if isinstance(built, str) else None


def _version_problem(spec: Spec) -> str | None:
    newest = VERSIONS.get(spec.method)
    if newest is None:
        return f"method {spec.method!r} is not known here; known: {', '.join(sorted(VERSIONS))}"
    if spec.method_version > newest:
        return f"method {spec.method} version {spec.method_version} needs a newer Shoal (this one has version {newest})"
    return None


def _settings(spec: Spec) -> DilocoSettings | str:
    """Of DiLoCo, the only method whose inner loop people can bring themselves."""
    problem = _version_problem(spec)
    if problem is None and spec.method != "diloco":
        problem = f"method {spec.method} does not take a model of one's own; diloco does"
    return problem or settings_of(spec)


def _build_zeroth(spec: Spec, options: MemberOptions) -> Zeroth | str:
    settings = zeroth_settings.parse_settings(spec.settings)
    if isinstance(settings, str):
        return settings
    problem = device_problem(options.device) or _turn_problem(spec, settings, options)
    if problem:
        return problem
    machine = Machine(
        device_of(options),
        options.threads,
        registry.data_folder(),
        registry.cache_folder(),
        options.progress,
        options.data_path,
        options.model_path,
    )
    evaluator = evaluator_of(spec, settings, machine)
    return evaluator if isinstance(evaluator, str) else Zeroth(spec, settings, evaluator)


def _turn_problem(spec: Spec, settings: ZerothSettings, options: MemberOptions) -> str | None:
    """Why no turn of these settings would count."""
    samples, sent = settings.directions * settings.batch_size, payload_bytes_of(settings.directions, settings.pool)
    if samples > spec.samples_max:
        return f"{settings.directions} directions of {settings.batch_size} are {samples} samples; the spec allows fewer"
    if sent > spec.payload_bytes_max:
        return f"{settings.directions} directions take {sent} bytes; payload_bytes_max is {spec.payload_bytes_max}"
    is_own = options.data_path is not None and not spec.data.startswith(data.FILE_PREFIX)
    if is_own and settings.audit == "public":
        return "the others compute slopes again, on the swarm's text: leave out --data, which needs audit = private"
    return None


def _build_entry(spec: Spec, settings: DilocoSettings, options: MemberOptions) -> Diloco | str:
    from .entry import EntryTrainer, load_entry

    if options.entry_path is None:
        return f"this swarm trains a file of its owner's ({spec.model}): name your own copy of it with --entry FILE.py"
    entry = load_entry(options.entry_path, spec.model)
    if isinstance(entry, str):
        return entry
    try:
        trainer = EntryTrainer(spec, settings, entry, device_of(options), options.threads)
    except ValueError as error:
        return f"{options.entry_path}: {error}"
    problem = _payload_problem(spec, settings, trainer.layout)
    return problem or Diloco(spec, settings, trainer, sweep_of(options.threads))


def _audit_problem(spec: Spec, settings: DilocoSettings, options: MemberOptions) -> str | None:
    """Why others could not do again what this member does."""
    if settings.audit == "private":
        return None
    if spec.model.startswith((CUSTOM_PREFIX, ENTRY_PREFIX)):
        return "others can do turns again with the built-in models alone: a model of one's own needs audit = private"
    if options.data_path is not None and not spec.data.startswith(data.FILE_PREFIX):
        return _OWN_DATA
    return None


_OWN_DATA: Final = "the others do turns again, on the swarm's text: leave out --data, which needs audit = private"


def _payload_problem(spec: Spec, settings: DilocoSettings, layout: Layout) -> str | None:
    sent = payload_bytes(settings.codec, layout)
    if sent > spec.payload_bytes_max:
        return f"{spec.model} in {settings.codec} sends {sent} bytes; payload_bytes_max is {spec.payload_bytes_max}"
    return None


def _memory_problem(model: str, needed: int) -> str | None:
    available = available_memory_bytes()
    if available is not None and needed > available:
        return (
            f"training {model} with these settings takes about {needed / 2**30:.1f} GiB of memory; "
            f"{available / 2**30:.1f} GiB are free"
        )
    return None
