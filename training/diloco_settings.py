"""DiLoCo's settings in a spec: their names, bounds and meanings."""

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from .eigen import SIDE_MAX
from .pace import StepRange
from .rules import RULES, attackers_most, rows_least
from .selecting import LEFT_OUT_MAX
from .spec import Spec

Steps = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
Rate = Annotated[float, msgspec.Meta(gt=0, le=10)]

# With so many members a round's aggregation takes seconds beside what it takes to read them: n^3 and more.
MEMBERS_MOST: Mapping[str, int] = {"flag": SIDE_MAX, "nnm_trimmed_mean": 128, "nnm_geometric_median": 128}


# For runs of about a dozen rounds of 50 steps, such as the testnet's, measured with gpt-0.8m and 4 members on
# Shakespeare (docs/performance.md): momentum 0.9 needs more rounds than that before it pays (it looks 10 rounds back),
# and averaging bears twice the inner learning rate that is best for a member alone.
SHORT_RUN: Mapping[str, int | float] = {"outer_lr": 1.0, "outer_momentum": 0.0, "lr": 4e-3}


class DilocoSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All have defaults. Those of the inner optimizer hold for the built-in trainer; a person's own loop brings its
    own.
    """

    # The round. `steps` is Douillard et al.'s H. Where the other two are left out every turn has exactly `steps`.
    steps: Steps = 50
    steps_min: Steps | None = None
    steps_max: Steps | None = None

    # The outer optimizer: Nesterov momentum on the mean pseudo-gradient; 0.7 and 0.9 as in the paper.
    outer_lr: Rate = 0.7
    outer_momentum: Annotated[float, msgspec.Meta(ge=0, le=0.99)] = 0.9
    # Or each member's own, on its pseudo-gradients: in place of the outer one, with outer_lr 1 / (1 - momentum) times.
    worker_momentum: Annotated[float, msgspec.Meta(ge=0, le=0.99)] = 0.0
    # What the pseudo-gradients become: a name of rules.RULES (why this one: docs/robustness.md), and which share of the
    # voters the rule is to bear whatever they send. The mean bears none; with it and a share of 0 contributions are not
    # even compared.
    rule: str = "clipped_mean"
    attackers: Annotated[float, msgspec.Meta(ge=0, le=0.49)] = 0.2
    codec: Literal["float32", "bfloat16", "int8"] = "float32"
    start: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?$")] = ""  # digest of round 0, if the spec fixes it

    # Where all data are public and the model is a built-in one, others can do turns again, and say so where another
    # result comes out than was contributed; members keep for that what their turns started from.
    audit: Literal["public", "private"] = "private"
    audit_share: Fraction = 1 / 16  # of a member's training time that it spends on others' turns
    # By how much of its length a result may differ, beside what coding costs. Measured between numbers of CPU threads:
    # up to 2e-6. Between CPUs and CUDA devices, which train in bfloat16, 1e-2 is needed.
    audit_tolerance: Annotated[float, msgspec.Meta(gt=0, le=0.1)] = 1e-4

    # The inner optimizer: AdamW under warm-up and cosine, both counted in agreed rounds.
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=65_536)] = 8  # windows per step
    context: Annotated[int, msgspec.Meta(ge=1, le=65_536)] = 128  # bytes per window
    lr: Rate = 2e-3
    lr_end: Fraction = 0.1  # of lr, once the cosine has run out
    lr_rounds: Annotated[int, msgspec.Meta(ge=0, le=2**31)] = 0  # of the cosine; 0: rounds_max; both 0: constant
    warmup_rounds: Annotated[float, msgspec.Meta(ge=0, le=10_000)] = 0.5
    weight_decay: Fraction = 0.1
    beta1: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.95
    clip: Annotated[float, msgspec.Meta(gt=0)] = 1.0  # of the gradient's norm

    # The data.
    pieces: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 64  # that the text is cut into and dealt out
    validation_windows: Annotated[int, msgspec.Meta(ge=1, le=65_536)] = 64

    @property
    def is_trusting(self) -> bool:
        """Whether all are taken for honest: nothing is looked for, and nothing is remembered of anybody."""
        return self.rule == "mean" and not self.attackers

    def step_range(self) -> StepRange:
        """How many inner steps a turn may have."""
        return StepRange(self.steps_min or self.steps, self.steps_max or self.steps, self.steps)


def parse_settings(settings: Mapping[str, object]) -> DilocoSettings | str:
    """The settings of a spec, or which of them is wrong."""
    known = DilocoSettings.__struct_fields__
    for name in settings:
        if name not in known:
            return f"diloco settings: {name!r} is not known here; known: {', '.join(known)}"
    try:
        parsed = msgspec.convert(dict(settings), DilocoSettings)
    except msgspec.ValidationError as error:
        return f"diloco settings: {error}"
    if parsed.rule not in RULES:
        return f"diloco settings: rule {parsed.rule!r} is not known here; known: {', '.join(RULES)}"
    if parsed.worker_momentum and parsed.outer_momentum:
        return "diloco settings: worker_momentum takes the place of outer_momentum: set that to 0 (both together stall)"
    if parsed.audit == "public" and parsed.beta1**2 >= parsed.beta2:
        return "diloco settings: audit = public needs beta1^2 below beta2: else an optimizer may have come to anything"
    steps = parsed.step_range()
    if not steps.least <= steps.reference <= steps.most:
        return (
            f"diloco settings: steps {steps.reference} must lie from steps_min {steps.least} to steps_max {steps.most}"
        )
    return parsed


def settings_of(spec: Spec) -> DilocoSettings | str:
    """The settings of a spec, or which of them is wrong, or does not bear so many members."""
    parsed = parse_settings(spec.settings)
    if isinstance(parsed, str):
        return parsed
    rule, most = parsed.rule, MEMBERS_MOST.get(parsed.rule)
    if most is not None and spec.members_max > most:
        return f"diloco settings: rule {rule} takes up to {most} members, members_max is {spec.members_max}"
    f = attackers_most(rule, parsed.attackers, spec.members_max)
    if rule == "mda" and f > LEFT_OUT_MAX:
        return (
            f"diloco settings: rule mda bears up to {LEFT_OUT_MAX} attackers, and attackers = {parsed.attackers} of "
            f"members_max = {spec.members_max} are {f}: lower one of them"
        )
    if parsed.audit == "public" and parsed.step_range().most * parsed.batch_size > spec.samples_max:
        most = parsed.step_range().most * parsed.batch_size
        return f"diloco settings: audit = public needs samples that tell the steps: samples_max of {most} or more"
    if spec.members_min < rows_least(rule, 0):
        least = rows_least(rule, 0)
        return f"diloco settings: rule {rule} takes {least} members or more, members_min is {spec.members_min}"
    return parsed


def learning_rate(settings: DilocoSettings, rounds_max: int, round_: int, step: int) -> float:
    """The inner learning rate of a step, from 0, of a turn.

    It follows agreed rounds, not the steps a member did itself, so that a member who joins in round 900 knows its own.
    Within a round it moves as if the turn had `steps` steps; whoever does more stays at the round's end.
    """
    at = round_ - 1 + min(step / settings.steps, 1.0)  # in rounds
    if at < settings.warmup_rounds:
        return settings.lr * (at + 1 / settings.steps) / (settings.warmup_rounds + 1 / settings.steps)
    rounds = settings.lr_rounds or rounds_max
    if not rounds:
        return settings.lr
    past = min((at - settings.warmup_rounds) / max(rounds - settings.warmup_rounds, 1e-9), 1.0)
    return settings.lr * (settings.lr_end + (1 - settings.lr_end) * (1 + math.cos(math.pi * past)) / 2)
