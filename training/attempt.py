"""Where code that is not Shoal's is called: methods, and the files of owners of nodes.

Here is training's one broad `except`. A model of somebody's own may raise anything in the middle of the night, as may
torch when a machine's memory is full; what left a worker would end the node, with all its other swarms.
"""

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Gave(Generic[Result]):
    """What the call returned."""

    result: Result


@dataclass(frozen=True, slots=True)
class Raised:
    """What it raised instead, for people."""

    reason: str


def attempt(call: Callable[[], Result]) -> Gave[Result] | Raised:
    """Call it."""
    try:
        return Gave(call())
    except Exception as error:  # noqa: BLE001
        frames = traceback.extract_tb(error.__traceback__)
        place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if len(frames) > 1 else ""
        return Raised(f"{type(error).__name__}: {error}"[:500] + place)
