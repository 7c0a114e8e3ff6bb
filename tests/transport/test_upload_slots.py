"""How many chunks leave at once, and whose: few on a slow line, more where that lets more through."""

import pytest

from shoal.transport.upload_slots import HOLD_S, PAUSE_S, SLOTS_FIRST, WAIT_S, Ticket, UploadSlots

CHUNK_BYTES = 2**20
STEP_S = 0.1


class Readers:
    """Each takes one chunk after the other, as fast as it reads and the line lets it."""

    def __init__(self, line: float, rates: list[float]) -> None:
        self.slots = UploadSlots()
        self.line, self.rates = line, rates
        self.now = 0.0
        self.tickets: list[Ticket] = [self.ask(number) for number in range(len(rates))]
        self.left = [float(CHUNK_BYTES)] * len(rates)
        self.got = [0.0] * len(rates)
        self.chunk_s: list[float] = []

    def ask(self, number: int) -> Ticket:
        return self.slots.ask("", number, (number, self.now), self.now)

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            active = [n for n, ticket in enumerate(self.tickets) if self.slots.begin(ticket, self.now)]
            free = self.line * STEP_S
            for place, number in enumerate(sorted(active, key=lambda n: self.rates[n])):
                size = min(self.rates[number] * STEP_S, free / (len(active) - place), self.left[number])
                free -= size
                self.left[number] -= size
                self.got[number] += size
                self.slots.sent(int(size))
            self.now += STEP_S
            for number in active:
                if self.left[number] < 1:
                    began_at = self.tickets[number].began_at
                    assert began_at is not None
                    self.chunk_s.append(self.now - began_at)
                    self.slots.leave(self.tickets[number], self.now, is_whole=True)
                    self.tickets[number], self.left[number] = self.ask(number), float(CHUNK_BYTES)


def test_on_a_slow_line_a_chunk_takes_seconds_however_many_ask() -> None:
    readers = Readers(0.6e6, [25e6] * 29)
    readers.run(60)
    assert max(readers.chunk_s) < 12
    assert sum(readers.got) == pytest.approx(60 * 0.6e6, rel=0.05)
    assert readers.slots.count <= SLOTS_FIRST + 2


@pytest.mark.parametrize("line", [12.5e6, 125e6])
def test_a_fast_line_is_soon_used_by_all(line: float) -> None:
    readers = Readers(line, [25e6] * 29)
    readers.run(10)
    assert sum(readers.got) > 0.8 * min(line * 10, 29 * CHUNK_BYTES / STEP_S * 10)
    assert min(readers.got) > 0


def test_where_it_is_the_readers_who_are_slow_more_go_at_once() -> None:
    readers = Readers(12.5e6, [0.25e6] * 20)
    readers.run(40)
    before = sum(readers.got)
    readers.run(20)
    assert sum(readers.got) - before > 0.9 * 20 * 20 * 0.25e6


def test_who_does_not_read_has_a_slot_for_a_while_and_then_none() -> None:
    readers = Readers(12.5e6, [0.0] * 8 + [25e6] * 2)
    readers.run(2 * HOLD_S + 2 * PAUSE_S)
    before = sum(readers.got[8:])
    readers.run(10)
    assert sum(readers.got[8:]) - before > 0.8 * 10 * 12.5e6


def full(*who: str) -> tuple[UploadSlots, list[Ticket]]:
    """Slots that all are taken."""
    slots = UploadSlots()
    held = [slots.ask("", name, name, 0.0) for name in (*who, *map(str, range(SLOTS_FIRST - len(who))))]
    assert all(slots.begin(ticket, 0.0) for ticket in held)
    return slots, held


def test_who_has_none_on_its_way_goes_before_who_has_one() -> None:
    slots, held = full("busy")
    second, first = slots.ask("", "busy", 1, 0.0), slots.ask("", "other", 2, 0.0)
    slots.leave(held[-1], 10.0, is_whole=False)
    assert not slots.begin(second, 1.0)
    assert slots.begin(first, 1.0)


def test_owners_take_turns_however_many_ask_for_theirs() -> None:
    slots, held = full()
    many = [slots.ask("many", name, name, 0.0) for name in "abcdefgh"]
    few = [slots.ask("few", name, name, 0.0) for name in "xyz"]
    for ticket in held:
        slots.leave(ticket, 1.0, is_whole=False)
    for _ in range(SLOTS_FIRST):
        for ticket in (*many, *few):
            slots.begin(ticket, 1.0)
    assert [sum(each.began_at is not None for each in one) for one in (many, few)] == [2, 2]


def test_what_was_sent_least_goes_first_but_nobody_waits_for_it_for_ever() -> None:
    slots, held = full("chunk")
    again = slots.ask("", "a", "chunk", 1.0)
    fresh = slots.ask("", "b", "another", 1.0)
    slots.leave(held[0], 1.0, is_whole=False)
    assert not slots.begin(again, 1.0)
    assert slots.begin(fresh, 1.0)
    later = slots.ask("", "c", "a third", WAIT_S)
    slots.leave(held[1], WAIT_S, is_whole=False)
    assert not slots.begin(later, WAIT_S + 1)
    assert slots.begin(again, WAIT_S + 1)


def test_who_leaves_before_its_turn_holds_nobody_up() -> None:
    slots, held = full()
    gone, next_one = slots.ask("", "gone", 1, 0.0), slots.ask("", "next", 2, 0.0)
    slots.leave(gone, 1.0, is_whole=False)
    slots.leave(held[0], 1.0, is_whole=True)
    assert slots.begin(next_one, 1.0)
