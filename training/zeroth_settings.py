"""The zeroth-order method's settings in a spec: their names, bounds and meanings."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from .evaluator_settings import EvaluatorSettings
from .records import INLINE_BYTES_MAX
from .tried import payload_bytes


class ZerothSettings(EvaluatorSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All have defaults; so have those of the model and its samples (evaluator_settings.py)."""

    # A turn: directions, and two forward passes over `batch_size` samples along each.
    directions: Annotated[int, msgspec.Meta(ge=1, le=INLINE_BYTES_MAX)] = 8
    way: Literal["average", "steps"] = "average"  # all from the shared state; or each from where the one before led
    epsilon: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1e-2  # how far from there the two passes are made

    # The update.
    lr: Annotated[float, msgspec.Meta(gt=0, le=10)] = 3e-3
    pool: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 0  # so many directions, fixed for good; 0: new ones each turn
    origin: Annotated[int, msgspec.Meta(ge=-32, le=16)] = -8  # 2^origin is the smallest slope but 0
    start: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?$")] = ""  # digest of round 0, if the spec fixes it

    # Whether a slope is believed.
    bound: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 3  # times the median of recent slopes: more counts as that
    audit: Literal["public", "private"] = "public"  # private: members have samples of their own, so nobody can tell
    audit_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.05  # of a turn's slopes, which the others compute again

    # The evaluation of a state.
    evaluate_rounds: Annotated[int, msgspec.Meta(ge=1, le=2**31)] = 1  # every so many rounds, and after the last


def parse_settings(settings: Mapping[str, object]) -> ZerothSettings | str:
    """The settings of a spec, or which of them is wrong."""
    known = ZerothSettings.__struct_fields__
    for name in settings:
        if name not in known:
            return f"zeroth settings: {name!r} is not known here; known: {', '.join(known)}"
    try:
        parsed = msgspec.convert(dict(settings), ZerothSettings)
    except msgspec.ValidationError as error:
        return f"zeroth settings: {error}"
    sent = payload_bytes(parsed.directions, parsed.pool)
    if sent > INLINE_BYTES_MAX:
        return f"zeroth settings: {parsed.directions} directions take {sent} bytes; {INLINE_BYTES_MAX} are allowed"
    if parsed.pool and parsed.start:
        return "zeroth settings: a swarm with a pool starts from the base model alone: leave out start"
    if parsed.pool and parsed.audit == "private":
        return "zeroth settings: with a pool members choose their directions, so somebody has to audit: leave out one"
    return parsed
