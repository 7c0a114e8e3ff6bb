"""How many inner steps fit into a turn.

A member on a slow machine does fewer steps than one on a fast machine, so that all are done by the round's deadline;
its samples say how much its result weighs. The speed it had before is remembered, which keeps one slow first step (a
cold cache, a lid just opened) from ending the turn.
"""

import math
from dataclasses import dataclass

MEMORY_STEPS = 5  # the remembered speed weighs as much as so many steps of this turn; chosen


@dataclass(frozen=True, slots=True)
class StepRange:
    """Bounds from the spec. With `least` == `most` every turn has that many steps, whatever the clock says."""

    least: int  # done even after the deadline: the least that is worth a round
    most: int
    reference: int  # what a turn without a deadline has, and what the learning rate's schedule counts with


def has_time(
    steps: StepRange, done: int, started_at: float, now: float, deadline_at: float, remembered_s: float | None
) -> bool:
    """Whether one more inner step fits.

    Args:
        done: steps of this turn so far, begun at `started_at`.
        remembered_s: how long a step took in earlier turns.
    """
    if done < steps.least:
        return True
    if done >= steps.most or (math.isinf(deadline_at) and done >= steps.reference):
        return False
    step_s = expected_step_s(done, now - started_at, remembered_s)
    return step_s is None or now + step_s <= deadline_at


def expected_step_s(done: int, elapsed_s: float, remembered_s: float | None) -> float | None:
    """What the next step will take: the mean over this turn and the memory of earlier ones; None without either."""
    if remembered_s is None:
        return elapsed_s / done if done else None
    return (remembered_s * MEMORY_STEPS + elapsed_s) / (MEMORY_STEPS + done)
