"""What waits for the disk: what has to be there before what follows it is done, in order. No I/O.

While the disk is full the member hears on and would answer, repeat itself and learn of records without end. So of what
it would say the newest SAID_MAX words wait, each once, for agreement repeats what was shed; of journals the last; and
beyond KEPT_MAX of the rest the member hears no ballots until there is room. Peers can make any number of words due, and
no more of them wait for that.
"""

from typing import Final

from .effects import Effect
from .voting_effects import Save, Send

SAID_MAX: Final = 256  # as many connections as a node has; most share one ballot
KEPT_MAX: Final = 96  # records, as many as a ledger has


class Unwritten:
    """One member's."""

    def __init__(self) -> None:
        self._waiting: list[Effect] = []
        self._is_at_work = False

    @property
    def is_full(self) -> bool:
        """Whether nothing more should be heard that must be kept."""
        return sum(not isinstance(effect, Send) for effect in self._waiting) >= KEPT_MAX

    @property
    def is_done(self) -> bool:
        """Whether nothing waits, nor is being written."""
        return not self._waiting and not self._is_at_work

    def put(self, effect: Effect) -> None:
        """All that waits is written at once, the last journal of it, before any of it is said."""
        match effect:
            case Send():
                if effect in self._waiting:
                    return
                said = [each for each in self._waiting if isinstance(each, Send)]
                if len(said) >= SAID_MAX:
                    self._waiting.remove(said[0])
            case Save():
                self._waiting = [each for each in self._waiting if not isinstance(each, Save)]
            case _:
                pass
        self._waiting.append(effect)

    def take(self) -> list[Effect]:
        """All that waits, to be written and then carried out; `carried_out` ends it."""
        taken, self._waiting = self._waiting, []
        self._is_at_work = True
        return taken

    def carried_out(self) -> None:
        self._is_at_work = False
