"""Who gets a seat, whose seat is cleared, and that no crowd of strangers changes that."""

import os
from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shoal.transport.addresses import Ranges
from shoal.transport.pruning import LOW_WATER, Seat, Shares, make_room, shares_of, surplus

SOAK = bool(os.environ.get("SHOAL_SOAK"))
SHARES = shares_of(32, 0)  # 28 strangers, 24 of them inbound, 4 per narrow range, 8 per wide one
NOW, QUIET_S, UNUSED_S = 1000.0, 10.0, 60.0
QUIET = NOW - QUIET_S


def ranges(index: int) -> Ranges:
    """Four narrow ranges in each wide one."""
    return Ranges(f"1.{index // 4}.{index % 4}.0/24", f"1.{index // 4}.0.0/16")


def inbound(number: int, age_s: float = 100.0, *, at: Ranges | None = None, is_busy: bool = False) -> Seat:
    return Seat(number, False, False, is_busy, NOW - age_s, at)


def outbound(number: int, age_s: float = 100.0, *, is_busy: bool = False) -> Seat:
    return Seat(number, False, True, is_busy, NOW - age_s, None)


def kept(number: int, *, is_outbound: bool = True) -> Seat:
    return Seat(number, True, is_outbound, False, 0.0, None)


def numbers(seats: list[Seat] | None) -> list[int] | None:
    return None if seats is None else [seat.number for seat in seats]


def room(newcomer: Seat, seats: list[Seat], shares: Shares = SHARES) -> list[int] | None:
    return numbers(make_room(newcomer, seats, shares, QUIET))


@given(st.integers(2, 2000), st.integers(0, 3000))
def test_shares_leave_seats_for_kept_peers_and_for_whom_we_dial(connections_max: int, kept_count: int) -> None:
    shares = shares_of(connections_max, kept_count)
    assert shares.everybody == connections_max
    assert connections_max - shares.strangers >= min(kept_count, 3 * connections_max // 4)
    assert 1 <= shares.strangers < connections_max
    assert 1 <= shares.inbound <= shares.strangers
    assert shares.inbound <= max(1, 3 * connections_max // 4)
    if shares.strangers > 1:
        assert shares.inbound < shares.strangers
    if connections_max >= 16:
        assert shares.narrow < shares.wide < shares_of(connections_max, 0).inbound


def test_who_comes_while_there_is_room_costs_nobody_a_seat() -> None:
    assert room(inbound(99), [inbound(number) for number in range(SHARES.inbound - 1)]) == []
    assert room(outbound(99), [inbound(number) for number in range(SHARES.inbound)]) == []


def test_a_full_share_gives_the_newcomer_the_seat_of_its_longest_unused() -> None:
    seats = [inbound(number, 100 + (number * 7) % 24) for number in range(SHARES.inbound)]
    (oldest,) = room(inbound(99), seats) or []
    assert seats[oldest].used_at == min(seat.used_at for seat in seats)


def test_who_is_busy_or_young_stays_and_the_newcomer_goes() -> None:
    busy = [inbound(number, is_busy=True) for number in range(12)]
    young = [inbound(number, QUIET_S - 1) for number in range(12, 24)]
    assert room(inbound(99), [*busy, *young]) is None
    assert room(inbound(99), [*busy, *young[1:], inbound(12, QUIET_S)]) == [12]


def test_inbound_strangers_never_take_the_seat_of_whom_we_dialed() -> None:
    seats = [*(inbound(number, 1) for number in range(10)), *(outbound(number, 5000) for number in range(10, 28))]
    assert room(inbound(99), seats) is None


def test_whom_we_dial_takes_from_inbound_strangers_until_half_of_the_strangers_are_outbound() -> None:
    few = [*(inbound(number) for number in range(24)), *(outbound(number, 5000) for number in range(24, 28))]
    assert room(outbound(99), few) == [0]
    half = [*(inbound(number, 5000) for number in range(14)), *(outbound(number) for number in range(14, 28))]
    assert room(outbound(99), half) == [14]
    young = [*(inbound(number, 5000) for number in range(14)), *(outbound(number, 1) for number in range(14, 28))]
    assert room(outbound(99), young) is None


def test_a_kept_peer_may_take_any_strangers_seat_that_is_not_in_use() -> None:
    seats = [*(kept(number) for number in range(4)), *(outbound(number) for number in range(4, 32))]
    assert room(kept(99), seats) == [4]
    assert room(kept(99, is_outbound=False), seats) == [4]
    assert room(kept(99), [*(kept(n) for n in range(4)), *(outbound(n, 1) for n in range(4, 31)), inbound(31)]) == [31]


def test_there_is_a_seat_for_every_kept_peer_whatever_strangers_do() -> None:
    shares = shares_of(32, 20)
    seats: list[Seat] = []
    for number in range(100):  # all come, all stay busy
        newcomer = inbound(number, 0, is_busy=True) if number % 2 else outbound(number, 0, is_busy=True)
        if make_room(newcomer, seats, shares, QUIET) == []:
            seats.append(newcomer)
    assert len(seats) == shares.strangers
    for number in range(100, 120):
        assert room(kept(number), seats, shares) == []
        seats.append(kept(number))
    assert len(seats) == shares.everybody


def test_one_range_of_addresses_has_its_share_and_no_more() -> None:
    here, near, far = ranges(0), ranges(1), ranges(4)
    seats = [inbound(number, 1, at=here) for number in range(SHARES.narrow)]
    assert room(inbound(99, at=here), seats) is None
    assert room(inbound(99, at=near), seats) == []
    seats += [inbound(number, 1, at=near) for number in range(SHARES.narrow, SHARES.wide)]
    assert room(inbound(99, at=ranges(2)), seats) is None
    assert room(inbound(99, at=far), seats) == []
    assert room(inbound(99), seats) == []  # at home everybody is a neighbour
    assert room(outbound(99), seats) == []
    assert room(kept(99, is_outbound=False), seats) == []


def test_a_range_that_is_full_makes_room_for_itself() -> None:
    seats = [inbound(number, 100 - number, at=ranges(0)) for number in range(SHARES.narrow)]
    assert room(inbound(99, at=ranges(0)), [*seats, inbound(50, 5000, at=ranges(1))]) == [0]


def test_the_largest_crowd_goes_first_when_strangers_are_too_many() -> None:
    crowd = [inbound(number, 50, at=ranges(0)) for number in range(4)]
    loners = [inbound(4 + number, 5000, at=ranges(4 * number + 4)) for number in range(20)]
    assert room(inbound(99, at=ranges(400)), [*crowd, *loners]) == [0]


def test_beyond_three_quarters_of_a_share_the_unused_go_and_nobody_else() -> None:
    most = int(SHARES.inbound * LOW_WATER)
    seats = [inbound(number, 100 + number) for number in range(most)]
    assert surplus(seats, SHARES, NOW - UNUSED_S) == []
    seats += [inbound(97), inbound(98, UNUSED_S - 1), inbound(99, 5000, is_busy=True), kept(100)]
    assert numbers(surplus(seats, SHARES, NOW - UNUSED_S)) == [most - 1, most - 2, most - 3]


def test_a_crowd_of_inbound_strangers_does_not_make_the_outbound_go() -> None:
    seats = [*(inbound(number, 1) for number in range(24)), *(outbound(number, 5000) for number in range(24, 28))]
    assert surplus(seats, SHARES, NOW - UNUSED_S) == []


@settings(max_examples=2000 if SOAK else 100)
@given(
    st.lists(
        st.builds(
            Seat,
            st.uuids().map(lambda uuid: uuid.int),
            st.booleans(),
            st.booleans(),
            st.booleans(),
            st.floats(NOW - 100, NOW),
            st.none() | st.integers(0, 8).map(ranges),
        ),
        max_size=60,
        unique_by=lambda seat: seat.number,
    ),
    st.integers(2, 40),
    st.integers(0, 40),
)
def test_nobody_goes_who_is_kept_busy_or_fresh_whatever_stands(
    seats: list[Seat], connections_max: int, kept_count: int
) -> None:
    shares = shares_of(connections_max, kept_count)
    for newcomer in (inbound(-1, 0, at=ranges(0)), outbound(-1, 0), kept(-1)):
        cleared = make_room(newcomer, seats, shares, QUIET) or []
        gone = [*cleared, *surplus(seats, shares, NOW - UNUSED_S)]
        assert all(not seat.is_kept and not seat.is_busy and seat.used_at <= QUIET for seat in gone)
        assert len(set(cleared)) == len(cleared)
        if newcomer.number == -1 and not newcomer.is_kept and not newcomer.is_outbound:
            assert not any(seat.is_outbound for seat in cleared)


class Crowd(RuleBasedStateMachine):
    """A node for a while: peers come, use their connections, are kept and released, and the bounds hold throughout."""

    CONNECTIONS_MAX = 24

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.number = 0
        self.kept_count = 0
        self.seats: dict[int, Seat] = {}

    @property
    def shares(self) -> Shares:
        return shares_of(self.CONNECTIONS_MAX, self.kept_count)

    def come(self, *, is_kept: bool, is_outbound: bool, at: Ranges | None) -> bool:
        self.number += 1
        newcomer = Seat(self.number, is_kept, is_outbound, False, self.now, at)
        cleared = make_room(newcomer, self.seats.values(), self.shares, self.now - QUIET_S)
        if cleared is None:
            return False
        for seat in cleared:
            del self.seats[seat.number]
        self.seats[self.number] = newcomer
        return True

    def seat(self, index: int) -> Seat | None:
        return list(self.seats.values())[index % len(self.seats)] if self.seats else None

    @rule(count=st.integers(1, 12), is_outbound=st.booleans(), where=st.none() | st.integers(0, 8))
    def strangers_come(self, count: int, is_outbound: bool, where: int | None) -> None:
        for _ in range(count):
            self.come(is_kept=False, is_outbound=is_outbound, at=None if where is None else ranges(where))

    @rule(is_outbound=st.booleans())
    def a_kept_peer_comes_and_gets_in(self, is_outbound: bool) -> None:
        """As long as they are no more than there are seats, and none of the strangers held its seat before."""
        if self.kept_count < 6 * self.CONNECTIONS_MAX // 8:
            self.kept_count += 1
            strangers = [seat for seat in self.seats.values() if not seat.is_kept]
            in_use = [seat for seat in strangers if seat.is_busy or seat.used_at > self.now - QUIET_S]
            has_come = self.come(is_kept=True, is_outbound=is_outbound, at=None)
            assert has_come or len(in_use) > self.shares.strangers
            self.kept_count -= not has_come

    @rule(index=st.integers(0, 100), is_busy=st.booleans())
    def one_is_used_or_goes_quiet(self, index: int, is_busy: bool) -> None:
        seat = self.seat(index)
        if seat is not None:
            self.seats[seat.number] = replace(seat, is_busy=is_busy, used_at=self.now)

    @rule(index=st.integers(0, 100))
    def one_leaves(self, index: int) -> None:
        seat = self.seat(index)
        if seat is not None:
            self.kept_count -= seat.is_kept
            del self.seats[seat.number]

    @rule(passes_s=st.floats(0, 40))
    def time_passes(self, passes_s: float) -> None:
        self.now += passes_s

    @rule()
    def the_unused_are_looked_for(self) -> None:
        for seat in surplus(self.seats.values(), self.shares, self.now - UNUSED_S):
            del self.seats[seat.number]

    @invariant()
    def the_bounds_hold(self) -> None:
        seats = self.seats.values()
        fewest = shares_of(self.CONNECTIONS_MAX, 0)
        strangers = [seat for seat in seats if not seat.is_kept]
        inbound_strangers = [seat for seat in strangers if not seat.is_outbound]
        assert len(seats) <= self.CONNECTIONS_MAX
        assert len(strangers) <= fewest.strangers
        assert len(inbound_strangers) <= fewest.inbound
        places = [seat.ranges for seat in inbound_strangers if seat.ranges is not None]
        assert all(count <= fewest.narrow for count in Counter(place.narrow for place in places).values())
        assert all(count <= fewest.wide for count in Counter(place.wide for place in places).values())


TestCrowd = Crowd.TestCase
TestCrowd.settings = settings(max_examples=400 if SOAK else 40, stateful_step_count=40)
