"""How far something long has come, on standard error: one line that is rewritten at a terminal, else lines."""

import sys
import time

from .cli_parts import span

QUIET_S = 2.0  # before progress is told
TERMINAL_S = 0.5  # from one word of it to the next
LINES_S = 10.0  # where each is a line of its own


class Progress:
    """Of so many rounds."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._began_at = time.monotonic()
        self._next_at = self._began_at + QUIET_S
        self._has_told = False

    def tick(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now < self._next_at or not done:
            return
        self._next_at = now + (TERMINAL_S if self._is_terminal else LINES_S)
        self._has_told = True
        left = (now - self._began_at) / done * max(0, total - done)
        line = f"{done:,} of {total:,} rounds, {span(left)} left"
        print(f"\r\x1b[K{line}" if self._is_terminal else line, end="" if self._is_terminal else "\n", file=sys.stderr)
        sys.stderr.flush()

    def end(self) -> None:
        if self._has_told and self._is_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
