"""By which ways a node is connected with its peers, and when to look for a better one. A state machine without I/O.

A connection through a relay is good for a start: beside it a hole is punched (`punching`), at once and, if that fails,
again after a while, ever more seldom. Either side may begin; the one with the smaller id does so at once and gives the
other no reason to, the other after a head start. Another network on this side, or a direct connection that stood for a
while, are reasons to begin the count anew. Each step is kept with its reason, for people.

What a malicious peer may do: connect in all ways, offer punching as often as it likes, fail, and leave at any moment.
What it achieves: ATTEMPTS_MAX attempts, then one per pause, of at most PAUSE_S_MAX, whoever begins them, and however
often it connects. An attempt counts when it begins; only a direct connection of STABLE_S makes up for it.
"""

import enum
import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from .port import PeerId

ATTEMPTS_MAX: Final = 3  # at once; each costs the other side a few packets
HEAD_START_S: Final = 1.5  # for the side that begins
AGAIN_S: Final = 0.2  # between two attempts
PAUSE_S_MIN: Final = 60.0  # after the first that failed; then twice as long, and so on
PAUSE_S_MAX: Final = 3600.0
BUSY_S: Final = 1.0  # after the other side had no time; then twice as long, up to PAUSE_S_MIN
STABLE_S: Final = 60.0  # that a direct connection must have stood for the attempts before it to be forgotten
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
    BUSY = "busy"  # the other side has others to attend to, so there was none


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
    rest_until: float = -math.inf  # the pause that stands, whatever the peer does
    tried_count: int = 0  # attempts
    busy_until: float = -math.inf  # as the other side had no time; it may have some sooner, and offer
    busy_count: int = 0
    is_own: bool = False  # this side began the attempt that is under way, or was last
    direct_at: float = math.inf  # since when it is connected directly
    steps: deque[Step] = field(default_factory=lambda: deque[Step](maxlen=STEPS_MAX))


class Paths:
    """The paths of all peers. The time, in seconds of any monotonic clock, goes in with each event."""

    def __init__(self, self_id: PeerId) -> None:
        self._self_id = self_id
        self._paths: dict[PeerId, _Path] = {}  # the longest unchanged first

    def changed(self, peer: PeerId, way: Way, now: float) -> None:
        """Connections with `peer` have come or gone: this is its best way now."""
        path = self._paths.pop(peer, None) or _Path()
        self._forget_one()
        self._paths[peer] = path
        if way is path.way:
            return
        if now - path.direct_at >= STABLE_S:
            self._begin_anew(path, now)
        path.way, path.direct_at = way, now if way is Way.DIRECT else math.inf
        match way:
            case Way.RELAYED:
                self._note(path, now, "connected through a relay")
                self._begin_at(peer, path, now)
            case Way.DIRECT:
                path.punch_at = math.inf
                self._note(path, now, "connected directly")
            case Way.NONE:
                path.punch_at = math.inf
                self._note(path, now, "the last connection is gone")

    def network_changed(self, now: float) -> None:
        """This side's network is another one: what failed may work."""
        for peer, path in self._paths.items():
            self._begin_anew(path, now)
            if path.way is Way.RELAYED:
                self._note(path, now, "this node's network has changed")
                self._begin_at(peer, path, now)

    def due(self, now: float) -> list[PeerId]:
        """With whom to begin an attempt now. Each is to be told of by `ended`."""
        due = [peer for peer, path in self._paths.items() if path.punch_at <= now and not path.is_punching]
        due = due[: UNDER_WAY_MAX - self._under_way]
        for peer in due:
            self._begin(self._paths[peer], is_own=True)
        return due

    def offered(self, peer: PeerId, now: float) -> str:
        """The other side would begin an attempt now. Empty to take part, to be told of by `ended`; else why not."""
        path = self._paths.get(peer)
        if path is None or path.way is not Way.RELAYED:
            return "there is no relayed connection to improve"
        if path.is_punching:
            return "an attempt is under way"
        if self._under_way >= UNDER_WAY_MAX:
            return "too many attempts are under way"
        if path.tried_count >= ATTEMPTS_MAX and path.rest_until > now + HEAD_START_S:
            return f"{path.tried_count} attempts have failed, the next is due in {path.rest_until - now:.0f} s"
        self._begin(path, is_own=False)
        return ""

    def ended(self, peer: PeerId, outcome: Outcome, reason: str, now: float) -> None:
        """An attempt is over."""
        path = self._paths.get(peer)
        if path is None:
            return
        path.is_punching = False
        if outcome is Outcome.BUSY and path.is_own:
            path.tried_count = max(0, path.tried_count - 1)
            path.busy_until = now + min(PAUSE_S_MIN, BUSY_S * 2.0 ** min(path.busy_count, 16))
            path.busy_count += 1
        else:
            if outcome is Outcome.HOPELESS:
                path.tried_count = max(path.tried_count, ATTEMPTS_MAX)
            path.rest_until = now + _pause_s(path.tried_count)
        if path.way is Way.RELAYED:
            self._begin_at(peer, path, now)
            self._note(path, now, f"no direct connection: {reason}")

    @property
    def deadline(self) -> float:
        """When `due` is to be asked again, at the latest."""
        if self._under_way >= UNDER_WAY_MAX:
            return math.inf  # `ended` will make room
        waiting = (path.punch_at for path in self._paths.values() if not path.is_punching)
        return min(waiting, default=math.inf)

    def steps(self, peer: PeerId) -> tuple[Step, ...]:
        """What has happened with a peer's path, the newest last."""
        path = self._paths.get(peer)
        return () if path is None else tuple(path.steps)

    @property
    def _under_way(self) -> int:
        return sum(path.is_punching for path in self._paths.values())

    def _begin_anew(self, path: _Path, now: float) -> None:
        path.rest_until = path.busy_until = now
        path.tried_count = path.busy_count = 0

    def _begin_at(self, peer: PeerId, path: _Path, now: float) -> None:
        head_start_s = 0.0 if self._self_id < peer else HEAD_START_S
        path.punch_at = max(now, path.rest_until, path.busy_until) + head_start_s

    def _begin(self, path: _Path, *, is_own: bool) -> None:
        path.is_punching, path.is_own = True, is_own
        path.punch_at = math.inf
        path.tried_count += 1

    def _note(self, path: _Path, now: float, reason: str) -> None:
        path.steps.append(Step(now, path.way, reason))

    def _forget_one(self) -> None:
        if len(self._paths) >= PEERS_MAX:
            ended = [peer for peer, path in self._paths.items() if not path.is_punching]  # or too many were under way
            idle = (peer for peer in ended if self._paths[peer].way is Way.NONE)
            del self._paths[next(idle, ended[0])]


def _pause_s(tried_count: int) -> float:
    if tried_count < ATTEMPTS_MAX:
        return AGAIN_S
    return min(PAUSE_S_MAX, PAUSE_S_MIN * 2.0 ** min(tried_count - ATTEMPTS_MAX, 16))
