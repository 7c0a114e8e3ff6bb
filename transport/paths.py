"""By which ways a node is connected with its peers, and when to look for a better one. A state machine without I/O.

A connection through a relay is good for a start: beside it a hole is punched (`punching`), at once and, if that fails,
again after a while, ever more seldom. Either side may begin; the one with the smaller id does so at once and gives the
other no reason to, the other after a head start. What has changed on this side's network, or a fresh connection through
a relay, are reasons to try anew. Each step is kept with its reason, for people.

What a malicious peer may do: connect through relays, offer punching as often as it likes, and fail. What it achieves:
ATTEMPTS_MAX attempts, then one per pause, of at most PAUSE_S_MAX, whoever begins them, and however often it connects.
"""

import enum
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from .port import PeerId

ATTEMPTS_MAX: Final = 3  # at once; each costs the other side a few packets
HEAD_START_S: Final = 1.5  # for the side that begins
AGAIN_S: Final = 0.2  # between two attempts
PAUSE_S_MIN: Final = 60.0  # after the first that failed; then twice as long, and so on
PAUSE_S_MAX: Final = 3600.0
UNDER_WAY_MAX: Final = 8  # attempts at once, of all peers; each holds sockets
PEERS_MAX: Final = 1024  # whose paths are remembered; the longest unchanged is forgotten
STEPS_MAX: Final = 16  # remembered of a peer


class Way(enum.Enum):
    """How a peer is connected."""

    NONE = "not connected"
    RELAYED = "relayed"
    DIRECT = "direct"


class Outcome(enum.Enum):
    """Of one attempt to punch."""

    DIRECT = "through"
    FAILED = "failed"
    HOPELESS = "hopeless"  # the routers on both sides let no attempt succeed


@dataclass(frozen=True, slots=True)
class Step:
    """Something changed, and why."""

    at: float
    way: Way
    reason: str


@dataclass(slots=True)
class _Path:
    way: Way = Way.NONE
    punch_at: float = math.inf
    is_punching: bool = False
    failed_count: int = 0
    steps: deque[Step] = field(default_factory=lambda: deque[Step](maxlen=STEPS_MAX))


class Paths:
    """The paths of all peers. The time, in seconds of any monotonic clock, goes in with each event."""

    def __init__(self, self_id: PeerId) -> None:
        self._self_id = self_id
        self._paths: dict[PeerId, _Path] = {}  # the longest unchanged first

    def changed(self, peer: PeerId, way: Way, now: float, reason: str = "") -> None:
        """Connections with `peer` have come or gone: this is its best way now."""
        path = self._paths.pop(peer, None) or _Path()
        self._paths[peer] = path
        self._forget_one()
        if way is path.way:
            return
        path.way = way
        match way:
            case Way.RELAYED:
                self._note(path, now, reason or "connected through a relay")
                self._begin_at(peer, path, now)
            case Way.DIRECT:
                path.punch_at, path.failed_count = math.inf, 0
                self._note(path, now, reason or "connected directly")
            case Way.NONE:
                path.punch_at = math.inf
                self._note(path, now, reason or "the last connection is gone")

    def network_changed(self, now: float) -> None:
        """This side's network is another one: what failed may work."""
        for peer, path in self._paths.items():
            path.failed_count = 0
            if path.way is Way.RELAYED:
                self._note(path, now, "this node's network has changed")
                self._begin_at(peer, path, now)

    def due(self, now: float) -> list[PeerId]:
        """With whom to begin an attempt now. Each is to be told of by `ended`."""
        under_way = sum(path.is_punching for path in self._paths.values())
        due = [peer for peer, path in self._paths.items() if path.punch_at <= now and not path.is_punching]
        due = due[: UNDER_WAY_MAX - under_way]
        for peer in due:
            self._begin(self._paths[peer])
        return due

    def offered(self, peer: PeerId, now: float) -> str:
        """The other side would begin an attempt now. Empty to take part, to be told of by `ended`; else why not."""
        path = self._paths.get(peer)
        if path is None or path.way is not Way.RELAYED:
            return "there is no relayed connection to improve"
        if path.is_punching:
            return "an attempt is under way"
        if sum(each.is_punching for each in self._paths.values()) >= UNDER_WAY_MAX:
            return "too many attempts are under way"
        if path.failed_count >= ATTEMPTS_MAX and path.punch_at > now + HEAD_START_S:
            return f"{path.failed_count} attempts have failed, the next is due in {path.punch_at - now:.0f} s"
        self._begin(path)
        return ""

    def ended(self, peer: PeerId, outcome: Outcome, reason: str, now: float) -> None:
        """An attempt is over."""
        path = self._paths.get(peer)
        if path is None:
            return
        path.is_punching = False
        if path.way is not Way.RELAYED:
            return
        if outcome is not Outcome.DIRECT:
            path.failed_count = max(path.failed_count + 1, ATTEMPTS_MAX if outcome is Outcome.HOPELESS else 0)
        path.punch_at = now + self._pause_s(path)
        if path.failed_count < ATTEMPTS_MAX:
            path.punch_at += self._head_start_s(peer)
        self._note(path, now, f"no direct connection: {reason}")

    @property
    def deadline(self) -> float:
        """When `due` is to be asked again, at the latest."""
        waiting = (path.punch_at for path in self._paths.values() if not path.is_punching)
        return min(waiting, default=math.inf)

    def steps(self, peer: PeerId) -> tuple[Step, ...]:
        """What has happened with a peer's path, the newest last."""
        path = self._paths.get(peer)
        return () if path is None else tuple(path.steps)

    def _begin_at(self, peer: PeerId, path: _Path, now: float) -> None:
        """After failures the pause stands: connecting anew must not shorten it."""
        soon = now + self._head_start_s(peer)
        path.punch_at = soon if path.failed_count < ATTEMPTS_MAX else max(soon, path.punch_at, now + PAUSE_S_MIN)

    def _begin(self, path: _Path) -> None:
        path.is_punching = True
        path.punch_at = math.inf

    def _head_start_s(self, peer: PeerId) -> float:
        return 0.0 if self._self_id < peer else HEAD_START_S

    def _pause_s(self, path: _Path) -> float:
        if path.failed_count < ATTEMPTS_MAX:
            return AGAIN_S
        return min(PAUSE_S_MAX, PAUSE_S_MIN * 2.0 ** min(path.failed_count - ATTEMPTS_MAX, 16))

    def _note(self, path: _Path, now: float, reason: str) -> None:
        path.steps.append(Step(now, path.way, reason))

    def _forget_one(self) -> None:
        if len(self._paths) > PEERS_MAX:
            idle: Iterable[PeerId] = (peer for peer, path in self._paths.items() if path.way is Way.NONE)
            del self._paths[next(iter(idle), next(iter(self._paths)))]
