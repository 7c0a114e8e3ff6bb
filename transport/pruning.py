"""Who has a seat among a node's connections, and whose seat is cleared for whom. Pure functions.

A node that finds things dials ever more peers, and nobody hangs up. So seats are shared out, in eighths of all:
- Each kept peer (`Transport.keep`) has a seat of its own, connected or not, at least one eighth and at most six.
- Strangers have the rest: inbound ones six sevenths of it at most, so that there are always some for whom we dial.
- Inbound strangers of one range of addresses have one eighth of all (narrow) and one quarter (wide) at most.

Where a share is full a newcomer gets the seat of the longest unused in it, if there is one that is not kept, not busy,
and was quiet for a while; otherwise there is no seat. A node also hangs up by itself once it has more than three
quarters of a share and there are some that carried nothing for longer. Not only when full: what one node holds for
nothing is a seat at another node as well, and 0.3 MB at both. Not at fewer: a connection that is there when it is
needed saves five round trips.

What a malicious peer may do: connect under any number of ids, never hang up, send a byte now and then so as to look
used, hold a call open for ever. What it achieves: seats of inbound strangers, one eighth of all per /24 that it owns,
and that the idle among the other inbound strangers are hung up on: those of its own range before others. It cannot take
a kept peer's seat, that of a peer who was dialed, or of one with whom something is under way.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from .addresses import Ranges

LOW_WATER: Final = 0.75  # of a share: above it the unused go. Less: reconnecting; more: no room for a sudden dozen


@dataclass(frozen=True, slots=True)
class Seat:
    """A connection that stands, or one that would like to."""

    number: int  # its name here
    is_kept: bool
    is_outbound: bool
    is_busy: bool  # something is under way: a call, a circuit, bytes that wait to be written
    used_at: float  # when it last carried anything but signs of life; if never, when it was made
    ranges: Ranges | None  # of the other side's address; None: exempt


@dataclass(frozen=True, slots=True)
class Shares:
    """How many there may be of a kind."""

    everybody: int
    strangers: int
    inbound: int  # strangers; so all below
    outbound: int  # beyond it they make room for themselves, and below it inbound ones for them
    narrow: int  # inbound of one range
    wide: int


def shares_of(connections_max: int, kept_count: int) -> Shares:
    """The shares where `kept_count` peers are kept, connected or not."""
    eighth = -(-connections_max // 8)
    strangers = connections_max - max(eighth, min(kept_count, 6 * connections_max // 8))
    inbound = max(1, strangers * 6 // 7)
    return Shares(connections_max, strangers, inbound, strangers // 2, eighth, max(1, connections_max // 4))


def make_room(newcomer: Seat, seats: Collection[Seat], shares: Shares, quiet_since: float) -> list[Seat] | None:
    """Whose seats to clear for `newcomer`, the narrowest of its shares first. None: there is no seat for it.

    Args:
        quiet_since: who carried anything later stays.
    """
    cleared: list[Seat] = []
    for share, most in _shares_with(newcomer, seats, shares):
        left = [seat for seat in share if seat not in cleared]
        while len(left) >= most:
            idle = [seat for seat in left if _is_idle(seat, quiet_since)]
            seat = _least(idle, _sides(newcomer, seats, shares), seats)
            if seat is None:
                return None
            left.remove(seat)
            cleared.append(seat)
    return cleared


def surplus(seats: Iterable[Seat], shares: Shares, unused_since: float) -> list[Seat]:
    """Whose connections to close although there is room: the longest unused of those who carried nothing later."""
    strangers = [seat for seat in seats if not seat.is_kept]
    closed: list[Seat] = []
    for is_outbound, share in ((False, shares.inbound), (True, shares.outbound)):
        side = [seat for seat in strangers if seat.is_outbound == is_outbound]
        unused = sorted((seat for seat in side if _is_idle(seat, unused_since)), key=_age_first)
        closed += unused[: max(0, len(side) - int(share * LOW_WATER))]
    return closed


def _shares_with(newcomer: Seat, seats: Collection[Seat], shares: Shares) -> list[tuple[list[Seat], int]]:
    """Each share that the newcomer would be counted in: who has it now, and how many may. Each holds the one before."""
    nested = [(list(seats), shares.everybody)]
    if not newcomer.is_kept:
        strangers = [seat for seat in seats if not seat.is_kept]
        nested.append((strangers, shares.strangers))
        if not newcomer.is_outbound:
            inbound = [seat for seat in strangers if not seat.is_outbound]
            nested.append((inbound, shares.inbound))
            if newcomer.ranges is not None:
                wide = [seat for seat in inbound if seat.ranges and seat.ranges.wide == newcomer.ranges.wide]
                narrow = [seat for seat in wide if seat.ranges and seat.ranges.narrow == newcomer.ranges.narrow]
                nested += [(wide, shares.wide), (narrow, shares.narrow)]
    return nested[::-1]


def _sides(newcomer: Seat, seats: Iterable[Seat], shares: Shares) -> tuple[bool, ...]:
    """Which strangers make room for the newcomer, by `is_outbound`, and which of them first."""
    if not (newcomer.is_kept or newcomer.is_outbound):
        return (False,)
    outbound_count = sum(seat.is_outbound and not seat.is_kept for seat in seats)
    if outbound_count < shares.outbound:
        return (False, True)
    return (True, False) if newcomer.is_kept else (True,)


def _least(idle: list[Seat], sides: Iterable[bool], seats: Iterable[Seat]) -> Seat | None:
    """Of the first side that has any: of the range with the most inbound connections, the longest unused."""
    crowds = Counter(seat.ranges.narrow for seat in seats if seat.ranges is not None and not seat.is_outbound)
    for is_outbound in sides:
        side = [seat for seat in idle if seat.is_outbound == is_outbound]
        if side and is_outbound:
            return min(side, key=_age_first)
        if side:
            return min(side, key=lambda seat: (-crowds[seat.ranges.narrow] if seat.ranges else 0, *_age_first(seat)))
    return None


def _is_idle(seat: Seat, since: float) -> bool:
    return not seat.is_kept and not seat.is_busy and seat.used_at <= since


def _age_first(seat: Seat) -> tuple[float, int]:
    return seat.used_at, seat.number
