"""With whom to compare next, and when: on connect, every PERIOD_S with one of the connected, and soon where there is a
reason to. A machine without I/O.

What a malicious peer may do is fail, answer garbage, or claim what it does not deliver. What it achieves: exchanges
with it become rarer, twice as rare each time. It cannot make others wait for long: there is one exchange at a time with
a peer, which its owner ends after a while, and one that is slow takes nobody's place.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from shoal.transport.conditions import Draws
from shoal.transport.port import PeerId

from .exchange import Outcome

PERIOD_S: Final = 5.0  # longer: what gossip lost stays missing for longer; shorter: 1 KB more often
SOON_S: Final = 0.5  # at most so long after a reason; smaller: neighbours of one newcomer hand it the same
AGAIN_S: Final = 1.0  # between exchanges with one peer, unless it has more to settle
AT_ONCE_MAX: Final = 4  # exchanges, beside those that are slow
SLOW_S: Final = 5.0  # an exchange under way for longer no longer holds up others
UNDER_WAY_MAX: Final = 64  # exchanges in all; memory: 0.3 MB each
DOUBT_S: Final = 1.0  # after a failure, then twice as long each time; longer: who lost a message stays behind
DOUBT_S_MAX: Final = 600.0
DOUBTED_MAX: Final = 1024  # peers remembered, connected or not


@dataclass(slots=True)
class _Partner:
    ended_at: float = -math.inf  # its last exchange, whoever asked
    due_at: float = math.inf  # for a reason
    busy_since: float = math.inf  # inf: there is no exchange with it

    @property
    def is_busy(self) -> bool:
        return self.busy_since < math.inf


@dataclass(slots=True)
class _Doubt:
    count: int = 0
    until: float = -math.inf


class Partners:
    """The connected peers, as partners in exchanges.

    Args:
        seed: of the jitter.
    """

    def __init__(self, seed: int, now: float) -> None:
        self._draws = Draws(seed, "partners")
        self._partners: dict[PeerId, _Partner] = {}
        self._doubts: OrderedDict[PeerId, _Doubt] = OrderedDict()
        self._began_at = now  # the last exchange for no other reason
        self._period_at = now + PERIOD_S * (0.75 + 0.5 * self._draws.next())

    def connected(self, peer: PeerId, now: float) -> None:
        self._partners[peer] = _Partner(due_at=now + self._draws.next() * SOON_S)

    def disconnected(self, peer: PeerId) -> None:
        self._partners.pop(peer, None)

    def is_missing(self, peer: PeerId, now: float) -> None:
        """Something that `peer` has is missing here: ask it, or whoever is connected."""
        partner = self._partners.get(peer)
        soon = now + self._draws.next() * SOON_S
        if partner is not None:
            partner.due_at = min(partner.due_at, soon)
        else:
            self._period_at = min(self._period_at, max(soon, self._began_at + AGAIN_S))

    def heard(self, peer: PeerId, now: float) -> None:
        """`peer` asks: its exchange does for both sides what one of this side would do once more."""
        partner = self._partners.get(peer)
        if partner is not None:
            partner.ended_at = max(partner.ended_at, now)

    def has_news(self, source: PeerId, now: float) -> None:
        """An exchange with `source` brought news, which nobody gossips: tell the others."""
        for peer in self._partners:
            if peer != source:
                self.is_missing(peer, now)

    def begin(self, now: float) -> PeerId | None:
        """With whom to begin an exchange now, which will be told to `ended`. Call until it gives None."""
        if self._free_at() > now:
            return None
        free = [(peer, each) for peer, each in self._partners.items() if not each.is_busy]
        dues = [(self._due_at(peer, each), peer) for peer, each in free if each.due_at <= now]
        due_at, peer = min(dues, default=(math.inf, None))
        if peer is None or due_at > now:
            if self._period_at > now:
                return None
            # The one that was not compared for longest, though nothing says that it has to be.
            willing = [(each.ended_at, peer) for peer, each in free if self._may_begin_at(peer, each) <= now]
            self._began_at = now
            self._period_at = now + PERIOD_S * (0.75 + 0.5 * self._draws.next())
            if not willing:
                return None
            _, peer = min(willing)
        partner = self._partners[peer]
        partner.busy_since, partner.due_at = now, math.inf
        return peer

    def ended(self, peer: PeerId, outcome: Outcome, now: float) -> None:
        """An exchange is over."""
        if outcome.failure:
            self.doubt(peer, now)
        elif not outcome.is_left:
            self._doubts.pop(peer, None)
        partner = self._partners.get(peer)
        if partner is None:
            return
        partner.busy_since, partner.ended_at = math.inf, now
        if outcome.failure or outcome.is_left:
            partner.due_at = now
        elif outcome.is_unfinished:
            partner.due_at, partner.ended_at = now, now - AGAIN_S

    def doubt(self, peer: PeerId, now: float) -> None:
        """It failed, or handed over what is refused."""
        doubt = self._doubts.setdefault(peer, _Doubt())
        doubt.until = now + min(DOUBT_S_MAX, DOUBT_S * 2.0 ** min(doubt.count, 20))
        doubt.count += 1
        self._doubts.move_to_end(peer)
        if len(self._doubts) > DOUBTED_MAX:
            self._doubts.popitem(last=False)

    def is_doubted(self, peer: PeerId, now: float) -> bool:
        """Whether not to deal with it for now."""
        doubt = self._doubts.get(peer)
        return doubt is not None and doubt.until > now

    @property
    def deadline(self) -> float:
        """When `begin` may have somebody."""
        soonest = self._period_at
        for peer, each in self._partners.items():
            if each.due_at < soonest and not each.is_busy:
                soonest = min(soonest, self._due_at(peer, each))
        return max(self._free_at(), soonest)

    def _free_at(self) -> float:
        """From when on there is room for one exchange more."""
        since = [partner.busy_since for partner in self._partners.values() if partner.busy_since < math.inf]
        if len(since) < AT_ONCE_MAX:
            return -math.inf
        return math.inf if len(since) >= UNDER_WAY_MAX else sorted(since)[-AT_ONCE_MAX] + SLOW_S

    def _due_at(self, peer: PeerId, partner: _Partner) -> float:
        return max(partner.due_at, self._may_begin_at(peer, partner))

    def _may_begin_at(self, peer: PeerId, partner: _Partner) -> float:
        doubt = self._doubts.get(peer)
        willing_at = partner.ended_at + AGAIN_S
        return willing_at if doubt is None else max(willing_at, doubt.until)
