"""When round 1 may start: with all the members the spec awaits, or a moment after others have started without them."""


class Gathering:
    """Of one member."""

    def __init__(self, members_start: int, patience_s: float) -> None:
        self._members_start = members_start
        self._patience_s = patience_s
        self._heard_at: float | None = None

    def hear_start(self, now: float) -> None:
        """Somebody is at work on round 1."""
        if self._heard_at is None:
            self._heard_at = now

    def missing(self, now: float, count: int) -> str | None:
        """What is waited for, with `count` members in view; None if the round may start."""
        if count >= self._members_start or now >= self._starts_short_at():
            return None
        return f"{count} of {self._members_start} members are connected"

    def deadline(self, now: float) -> float:
        """When `missing` may change by itself."""
        return self._starts_short_at() if now < self._starts_short_at() else float("inf")

    def _starts_short_at(self) -> float:
        """When to begin with fewer than `members_start` in view, because others have begun.

        Not at once: the missing ones' hellos are on their way as a rule, and members who begin with different views
        train on overlapping shards, by accidents of timing.
        """
        return float("inf") if self._heard_at is None else self._heard_at + self._patience_s
