"""What joining a swarm will cost this machine, estimated from its spec before anything is joined; without torch."""

import msgspec

from shoal.training import smollm_file, tried, zeroth_settings
from shoal.training.diloco_settings import DilocoSettings, settings_of
from shoal.training.methods import available_memory_bytes
from shoal.training.models import SIZES, TORCH_BYTES, gpt_layout, memory_bytes, parameter_count
from shoal.training.payload import payload_bytes
from shoal.training.selection import choose
from shoal.training.spec import Spec, swarm_id
from shoal.training.state_service import STATES_AUDITED
from shoal.training.tensors import element_count

# Useful arithmetic per second and thread, from measured tokens/s of the built-in GPTs (0.2M: 32,000, 0.8M: 12,000,
# 3M: 4,000, 11M: 1,300) at 6 operations per parameter and token: 38 to 84 billion. Only to tell seconds from hours.
OPERATIONS_PER_S_AND_THREAD = 50e9
STATES_KEPT = 3  # checkpoints on disk at once, with outer momentum: 8 bytes a parameter
ROUNDS_KEPT = 2  # whose payloads are on disk at once


class Preview(msgspec.Struct, frozen=True):
    """Shown to a person who is asked whether to join. None: cannot be told here."""

    swarm: str
    name: str
    method: str
    model: str
    data: str
    creator: str
    parent: str  # "<swarm>@<record>" that it goes on from; empty: from nothing
    members_max: int
    rounds_max: int
    parameters: int | None
    disk_bytes: int | None  # at most, with members_max members
    memory_bytes: int | None
    memory_free_bytes: int | None
    payload_bytes: int | None  # sent per round
    round_s: float  # training time per round on this machine
    admission: str  # who is let in: `AdmissionRule`
    obstacle: str | None  # why this node would not be
    quorum: str  # which votes end a round: `Quorum`
    is_torch_here: bool


def preview(spec: Spec, threads: int, obstacle: str | None = None, *, is_torch_here: bool) -> Preview:
    """`obstacle`: why this node would not be let in."""
    settings = settings_of(spec) if spec.method == "diloco" else None
    forward = zeroth_settings.parse_settings(spec.settings) if spec.method == "zeroth" else None
    size = SIZES.get(spec.model)
    parameters = parameter_count(size) if size else None
    payload = disk = memory = None
    seconds = spec.round_s
    if size and isinstance(settings, DilocoSettings):
        payload = payload_bytes(settings.codec, gpt_layout(size))
        disk = STATES_KEPT * 8 * parameter_count(size) + ROUNDS_KEPT * spec.members_max * payload
        memory = memory_bytes(size, settings.batch_size, settings.context)
        # A member goes on until its steps_max or the deadline, whichever comes first.
        tokens = (settings.steps_max or settings.steps) * settings.batch_size * settings.context
        seconds = min(spec.round_s, 6.0 * parameter_count(size) * tokens / (OPERATIONS_PER_S_AND_THREAD * threads))
    if isinstance(forward, zeroth_settings.ZerothSettings):
        parameters = trained_count(spec.model, forward)
        payload = tried.payload_bytes(forward.directions, forward.pool)
        kept = STATES_AUDITED + spec.stale_rounds_max
        disk = None if parameters is None else kept * 4 * parameters
        memory = None if parameters is None else TORCH_BYTES + 4 * whole_count(spec.model) + 12 * parameters
    return Preview(
        swarm=swarm_id(spec).hex(),
        name=spec.name,
        method=spec.method,
        model=spec.model,
        data=spec.data,
        creator=spec.creator,
        parent=spec.parent,
        members_max=spec.members_max,
        rounds_max=spec.rounds_max,
        parameters=parameters,
        disk_bytes=disk,
        memory_bytes=memory,
        memory_free_bytes=available_memory_bytes(),
        payload_bytes=payload,
        round_s=round(seconds, 3),
        admission=spec.admission.value,
        obstacle=obstacle,
        quorum=spec.quorum.value,
        is_torch_here=is_torch_here,
    )


def whole_count(model: str) -> int:
    """Parameters of a built-in model; 0: not known."""
    size = SIZES.get(model)
    return parameter_count(size) if size else element_count(smollm_file.LAYOUT) if model == smollm_file.NAME else 0


def trained_count(model: str, settings: zeroth_settings.ZerothSettings) -> int | None:
    """How many of them these settings train; None: that cannot be told here."""
    if model != smollm_file.NAME:
        return whole_count(model) or None
    layout = choose(smollm_file.LAYOUT, settings)
    return None if isinstance(layout, str) else element_count(layout)
