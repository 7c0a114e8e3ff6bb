"""From a spec to the method that carries it out, or to the one line that says why this machine cannot."""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import data
from .diloco import Diloco
from .diloco_settings import DilocoSettings, parse_settings
from .method import Method
from .models import SIZES, gpt_layout, memory_bytes
from .payload import payload_bytes
from .spec import Spec

VERSIONS = {"diloco": 1}  # the newest of each method that this Shoal speaks
TORCH_MISSING = "training needs PyTorch, which is not installed here: pip install 'shoal[train]'"


@dataclass(frozen=True, slots=True)
class MemberOptions:
    """What a member decides for itself."""

    device: str = "cpu"  # or "cuda", "cuda:1"
    threads: int = 1
    data_path: Path | None = None  # a text to train on in place of the swarm's shard
    entry_path: Path | None = None  # the file that a spec's model "entry:..." names


def build(spec: Spec, options: MemberOptions) -> Method[Any, Any] | str:
    """The method for this spec on this machine, or the reason why there is none."""
    newest = VERSIONS.get(spec.method)
    if newest is None:
        return f"method {spec.method!r} is not known here; known: {', '.join(sorted(VERSIONS))}"
    if spec.method_version > newest:
        return f"method {spec.method} version {spec.method_version} needs a newer Shoal (this one has version {newest})"
    settings = parse_settings(spec.settings)
    if isinstance(settings, str):
        return settings
    return _build_gpt(spec, settings, options)


def _build_gpt(spec: Spec, settings: DilocoSettings, options: MemberOptions) -> Diloco | str:
    size = SIZES.get(spec.model)
    if size is None:
        return f"model {spec.model!r} is not known here; known: {', '.join(SIZES)}"
    sent = payload_bytes(settings.codec, gpt_layout(size))
    if sent > spec.payload_bytes_max:
        return f"{spec.model} in {settings.codec} sends {sent} bytes; payload_bytes_max is {spec.payload_bytes_max}"
    needed, available = memory_bytes(size, settings.batch_size, settings.context), available_memory_bytes()
    if available is not None and needed > available:
        return (
            f"training {spec.model} with batches of {settings.batch_size} x {settings.context} takes about "
            f"{needed / 2**30:.1f} GiB of memory; {available / 2**30:.1f} GiB are free"
        )
    window_bytes = settings.context + 1
    corpus = data.load(spec.data, settings.pieces, settings.batch_size * window_bytes, options.data_path)
    if isinstance(corpus, str):
        return corpus
    if len(corpus.training) // settings.pieces < window_bytes:
        return f"data {spec.data!r} in {settings.pieces} pieces is too short for windows of {window_bytes} bytes"
    problem = device_problem(options.device)
    if problem:
        return problem
    from .trainer import GptTrainer

    return Diloco(spec, settings, GptTrainer(spec, settings, size, corpus, options.device, options.threads))


def device_problem(device: str) -> str | None:
    """Why training cannot run on `device`, or None if it can."""
    if importlib.util.find_spec("torch") is None:
        return TORCH_MISSING
    import torch

    try:
        kind = torch.device(device)
    except RuntimeError:
        return f"device {device!r} is not one that torch knows: use cpu, cuda or cuda:N"
    if kind.type not in ("cpu", "cuda"):
        return f"device {device!r} is not supported: use cpu, cuda or cuda:N"
    if kind.type == "cuda" and (kind.index or 0) >= torch.cuda.device_count():
        return f"device {device!r} is not here: torch sees {torch.cuda.device_count()} CUDA devices"
    return None


def available_memory_bytes() -> int | None:
    """What programs can still have without swapping; None where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None
