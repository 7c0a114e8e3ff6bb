"""When a member asks to be let in. No I/O; what such a word proves stands in admission.py."""

from collections.abc import Callable

from .effects import Effect, Observe, SpreadWords
from .events import Problem
from .members import Change
from .records import Standing
from .situation import Situation

JOIN_AGAIN_ROUNDS = 32  # after which a newcomer asks anew: what it asked for grows old (admission.py)


class AskingIn:
    """Of one member."""

    def __init__(self, situation: Situation) -> None:
        self._situation = situation
        self._is_leaving = False
        self._asked_at = -1
        self.make_join: Callable[[int], Change | str] = lambda _: "nobody has said how"

    def leave(self) -> None:
        """It never asks again."""
        self._is_leaving = True

    def look(self) -> list[Effect]:
        """Ask to be a member, and again when that has grown old."""
        here = self._situation
        if here.me in here.electorate.by_member or here.standing is Standing.STORAGE or self._is_leaving:
            return []
        newest = here.ledger.newest
        if 0 <= self._asked_at > newest - JOIN_AGAIN_ROUNDS or here.electorate.is_barred(here.me):
            return []
        self._asked_at = newest
        change = self.make_join(newest)
        if isinstance(change, str):
            return [Observe(Problem(f"this node is not let in: {change}"))]
        here.words.hear(here.position, change)
        return [SpreadWords((change,))]
