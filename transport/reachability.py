"""Whether others can dial this node, as others find by doing so. A state machine without I/O.

A connected peer is asked to dial back: to the address at which it sees this node, at the ports where this node listens
or to which a router leads. What counts is what arrives here, not what the peer says. One that tried and did not arrive
is enough to call the node private; a few more are asked, for one may lie, or be cut off itself. Dials of this node's
own never come from the port at which it listens, so that no router lets a helper in because it was dialed from there.

From time to time a fresh port is shown to a helper or two (`stun`): that is how a new address of the router is noticed,
and whether it shows each peer another port.

What a malicious helper may do: not dial and say it did, dial from elsewhere, say that it sees any address, not answer.
What it achieves: one opinion of HELPERS_MAX, and CHANGES_MAX rounds of questions, then one per CHANGE_S, and those only
while no other helper contradicts. To call a private node public it would have to get through to it.
"""

import enum
import math
from collections import Counter
from dataclasses import dataclass
from typing import Final

from .addresses import Endpoint
from .port import PeerId, Verdict
from .punching import Mapping
from .token_bucket import TokenBucket

HELPERS_MAX: Final = 3  # asked to dial back, for one verdict
AT_ONCE_MAX: Final = 2
LOOK_S: Final = 12.0  # a change is noticed after this and a few round trips; shorter: packets for nothing
SOON_S: Final = 4.0  # so long connecting anew may take
RECHECK_S: Final = 300.0  # somebody may have closed a port
AGAIN_S: Final = 5.0  # before a helper that did not answer is asked again; then twice as long, and so on
CHANGES_MAX: Final = 3  # of the address outside, believed at once; more: whoever makes them up keeps us busy
CHANGE_S: Final = 300.0  # and then one each
LOOK_MAX: Final = 2  # helpers that are shown a fresh port


class Attempt(enum.IntEnum):
    """How a helper's dial went, as it says. The numbers are on the wire."""

    CONNECTED = 0
    REFUSED = 1
    TIMED_OUT = 2
    UNREACHABLE = 3


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of asking one helper to dial back."""

    seen: Endpoint  # where it sees this node
    attempts: dict[int, Attempt]  # by port
    arrived: frozenset[int]  # ports at which its word came in


@dataclass(frozen=True, slots=True)
class AskToDial:
    """Let this peer dial back."""

    helper: PeerId


@dataclass(frozen=True, slots=True)
class Look:
    """Show some of those who were dialed a fresh port."""


class Reachability:
    """What this node knows of itself. The time, in seconds of any monotonic clock, goes in with each event.

    Attributes:
        reason: why the verdict is as it is, for people.
        mapping: how the router translates ports.
    """

    def __init__(self, local_ips: frozenset[str], now: float) -> None:
        self.verdict = Verdict.UNKNOWN
        self.reason = "nobody outside this network is connected who could try"
        self.mapping = Mapping.UNKNOWN
        self._local_ips = local_ips
        self._helpers: dict[PeerId, None] = {}  # the one that waited longest first
        self._asked: dict[PeerId, float] = {}  # until when they are not asked again
        self._silent_count = 0  # times that a helper did not answer, since one did
        self._changes = TokenBucket(1 / CHANGE_S, CHANGES_MAX)
        self._tried: dict[PeerId, Tried] = {}
        self._seen: dict[PeerId, Endpoint] = {}
        self._wanted = AT_ONCE_MAX
        self._look_at = now
        self._recheck_at = now + RECHECK_S
        self._ask_at = now

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Where others have got through."""
        found = (
            Endpoint(tried.seen.kind, tried.seen.host, port)
            for tried in self._tried.values()
            if self._is_believed(tried)
            for port in sorted(tried.arrived)
        )
        return tuple(dict.fromkeys(found))

    @property
    def outside_ips(self) -> frozenset[str]:
        """At which others see this node."""
        return frozenset(each.host for each in self._seen.values())

    def helper_came(self, peer: PeerId, now: float) -> None:
        """Somebody with a global address is connected directly."""
        self._helpers.setdefault(peer)
        self._ask_at = min(self._ask_at, now)

    def helper_left(self, peer: PeerId) -> None:
        """It is not any more. What it found out stands."""
        self._helpers.pop(peer, None)
        self._asked.pop(peer, None)
        self._seen.pop(peer, None)

    def network_changed(self, local_ips: frozenset[str], now: float) -> None:
        """This machine is somewhere else, or its router has another address or another port for it: ask anew."""
        self._local_ips = local_ips
        self._tried.clear()
        self._asked.clear()
        self._seen.clear()
        self.mapping = Mapping.UNKNOWN
        self._wanted = AT_ONCE_MAX
        self._ask_at = self._look_at = now
        self._recheck_at = now + RECHECK_S
        self._conclude()

    def look_soon(self, now: float) -> None:
        """Others may see this node elsewhere, as soon as it is connected again."""
        self._look_at = min(self._look_at, now + SOON_S)

    def ports_changed(self, now: float) -> None:
        """What was found out holds for the ports that were tried: ask again."""
        self._recheck_at = now

    def due(self, now: float) -> list[AskToDial | Look]:
        """What to ask now."""
        orders: list[AskToDial | Look] = []
        if now >= self._recheck_at:
            self._recheck_at = now + RECHECK_S
            self._wanted = 1
            self._asked.clear()
            self._ask_at = now
        if now >= self._ask_at:
            fresh = [peer for peer in self._helpers if self._asked.get(peer, -math.inf) <= now][: self._wanted]
            self._wanted -= len(fresh)
            for peer in fresh:
                self._asked[peer] = math.inf
                self._to_the_end(peer)
                orders.append(AskToDial(peer))
            self._ask_at = min(self._asked.values(), default=math.inf) if self._wanted else math.inf
        if now >= self._look_at and self._helpers:
            self._look_at = now + LOOK_S
            orders.append(Look())
        return orders

    @property
    def deadline(self) -> float:
        """When `due` is to be asked again, at the latest."""
        return min(self._ask_at, self._recheck_at, self._look_at if self._helpers else math.inf)

    def tried(self, helper: PeerId, tried: Tried | None, now: float) -> None:
        """What came of `AskToDial`; None: the helper did not answer."""
        if tried is None:
            self._wanted += 1
            self._ask_at = now  # somebody else; and the same one later: it may have been busy
            if helper in self._helpers:
                self._asked[helper] = now + min(RECHECK_S, AGAIN_S * 2.0 ** min(self._silent_count, 16))
            self._silent_count += 1
            return
        self._silent_count = 0
        self._tried.pop(helper, None)
        self._tried[helper] = tried
        while len(self._tried) > HELPERS_MAX:
            del self._tried[next(iter(self._tried))]
        verdicts = {bool(each.arrived) for each in self._tried.values()}
        is_contradicted = len(verdicts) > 1 or len(self._hosts_seen(tried.seen.kind)) > 1
        if is_contradicted and len(self._tried) < HELPERS_MAX:
            self._wanted = max(self._wanted, 1)
            self._ask_at = now
        self._conclude()

    def looked(self, seen: dict[PeerId, Endpoint], mapping: Mapping, now: float) -> bool:
        """What came of `Look`. Whether this node's address outside is another one: then all is asked anew."""
        seen = {peer: each for peer, each in seen.items() if peer in self._helpers}
        news = {self._seen[peer].host != each.host for peer, each in seen.items() if peer in self._seen}
        is_new = news == {True} and self._changes.take(now)
        if is_new:
            self.network_changed(self._local_ips, now)
            self._look_at = now + LOOK_S
        if is_new or news != {True}:
            self._seen |= seen
        if mapping is not Mapping.UNKNOWN and not (len(seen) < LOOK_MAX and self.mapping is Mapping.DEPENDENT):
            self.mapping = mapping
        return is_new

    def _hosts_seen(self, kind: str) -> Counter[str]:
        return Counter(each.seen.host for each in self._tried.values() if each.seen.kind == kind)

    def _is_believed(self, tried: Tried) -> bool:
        """Or one helper could have this node name anybody's address as its own."""
        hosts = self._hosts_seen(tried.seen.kind)
        return tried.seen.host in self._local_ips or 2 * hosts[tried.seen.host] >= hosts.total()

    def _to_the_end(self, peer: PeerId) -> None:
        if peer in self._helpers:
            del self._helpers[peer]
            self._helpers[peer] = None

    def _conclude(self) -> None:
        tried = list(self._tried.values())
        arrived = [each for each in tried if each.arrived and self._is_believed(each)]
        if not tried:
            self.verdict = Verdict.UNKNOWN
            self.reason = "nobody outside this network has tried yet"
        elif 2 * len(arrived) >= len(tried):
            where = self.endpoints[0]
            is_own = where.host in self._local_ips
            self.verdict = Verdict.PUBLIC if is_own else Verdict.MAPPED
            self.reason = f"{len(arrived)} of {len(tried)} who tried reached {where.host}, port {where.port}"
        else:
            self.verdict = Verdict.PRIVATE
            self.reason = _why_private(tried, self._local_ips)


def _why_private(tried: list[Tried], local_ips: frozenset[str]) -> str:
    last = tried[-1]
    attempts = set(last.attempts.values())
    how = "timed out" if Attempt.TIMED_OUT in attempts else "was refused" if Attempt.REFUSED in attempts else "failed"
    what = "a firewall" if last.seen.host in local_ips else "a router that translates addresses (NAT)"
    ports = ", ".join(str(port) for port in sorted(last.attempts))
    return f"dialing {last.seen.host} at port {ports} from outside {how}: {what} is in between"
