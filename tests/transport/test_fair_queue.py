"""Whose piece goes next, and at what rate."""

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from shoal.transport.fair_queue import BURST_S, BUSY_S, UNSENT_MAX, FairQueue
from shoal.transport.line_rate import LOOK_S, MIN_BYTES_PER_S, WAIT_S, LineRate

PIECE = 16_384
RATE = 1e6


def run(
    flows: dict[str, str], until_s: float, slow: dict[str, float] | None = None, rate: float = RATE
) -> Counter[str]:
    """What each flow is granted if all always have more; `flows` says of which group each is.

    Args:
        slow: flows whose connections send this many bytes a second; the others' send at once.
    """
    queue = FairQueue()
    queue.bytes_per_s = rate
    sent_at: list[tuple[float, str]] = []
    free_at: dict[str, float] = {}
    got: Counter[str] = Counter()
    for flow, group in flows.items():
        queue.ask(group, flow, PIECE, 0.0)
    now = 0.0
    while now < until_s:
        for at, done in [each for each in sent_at if each[0] <= now]:
            sent_at.remove((at, done))
            queue.sent(flows[done], done)
        for flow in map(str, queue.due(now)):
            got[flow] += PIECE
            free_at[flow] = max(now, free_at.get(flow, 0.0)) + PIECE / (slow or {}).get(flow, math.inf)
            sent_at.append((free_at[flow], flow))
            queue.ask(flows[flow], flow, PIECE, now)
        now += 0.001
    return got


def test_a_group_with_one_flow_has_as_much_as_one_with_eight() -> None:
    got = run({"lone": "one", **{f"flow{n}": "many" for n in range(8)}}, 10.0)
    assert 0.49 <= got["lone"] / got.total() <= 0.51
    assert got.total() >= 0.95 * 10 * RATE
    others = [got[f"flow{n}"] for n in range(8)]
    assert max(others) - min(others) <= PIECE


def test_who_takes_slowly_holds_nobody_up_and_has_what_it_takes() -> None:
    got = run({"slow": "one", "fast": "other"}, 10.0, slow={"slow": 50_000.0})
    assert 0.9 * 500_000 <= got["slow"] <= 500_000 + UNSENT_MAX * PIECE
    assert got["fast"] >= 0.9 * 10 * (RATE - 50_000)


def test_who_takes_nothing_gets_a_few_pieces_and_no_more() -> None:
    got = run({"dead": "one", "fast": "other"}, 5.0, slow={"dead": 1e-9})
    assert got["dead"] == UNSENT_MAX * PIECE
    assert got["fast"] >= 0.95 * 5 * RATE


def test_without_a_rate_nothing_waits_here() -> None:
    queue = FairQueue()
    for flow in range(100):
        queue.ask(flow % 3, flow, PIECE, 0.0)
    assert len(queue.due(0.0)) == 100
    assert queue.deadline == math.inf


def test_nobody_saves_up_while_it_pauses() -> None:
    queue = FairQueue()
    queue.bytes_per_s = RATE
    now = 0.0
    for _ in range(200):
        queue.ask("many", "busy", PIECE, now)
        while not queue.due(now):
            now += 0.001
        queue.sent("many", "busy")
    order: list[object] = []
    queue.ask("many", "busy", PIECE, now)
    queue.ask("one", "late", PIECE, now)
    for _ in range(1000):
        now += 0.001
        for flow in queue.due(now):
            order.append(flow)
            group = "many" if flow == "busy" else "one"
            queue.sent(group, flow)
            queue.ask(group, flow, PIECE, now)
    assert abs(order.count("late") - order.count("busy")) <= 2


def test_a_group_wants_a_share_until_it_was_silent_for_a_while() -> None:
    queue = FairQueue()
    queue.ask("one", 1, PIECE, 0.0)
    queue.ask("other", 2, PIECE, 0.0)
    assert queue.busy_count(100.0) == 2  # their pieces wait still
    assert queue.due(0.0) == [1, 2]
    assert queue.busy_count(BUSY_S - 0.1) == 2
    assert queue.busy_count(BUSY_S) == 0


@given(
    st.lists(
        st.tuples(st.sampled_from(("ask", "sent", "ended", "due")), st.integers(0, 2), st.integers(0, 3)), max_size=80
    )
)
def test_whatever_happens_the_rate_holds_and_ended_flows_leave_nothing(steps: list[tuple[str, int, int]]) -> None:
    queue = FairQueue()
    queue.bytes_per_s = RATE
    waiting: set[tuple[int, int]] = set()
    unsent: Counter[tuple[int, int]] = Counter()
    granted, now = 0, 0.0
    for kind, group, number in steps:
        flow = group, number
        now += 0.002
        if kind == "ask" and flow not in waiting:
            queue.ask(group, flow, PIECE, now)
            waiting.add(flow)
        elif kind == "sent" and unsent[flow]:
            queue.sent(group, flow)
            unsent[flow] -= 1
        elif kind == "ended":
            queue.ended(group, flow)
            waiting.discard(flow)
            del unsent[flow]
        elif kind == "due":
            for each in queue.due(now):
                (named,) = [other for other in waiting if other == each]
                waiting.remove(named)
                unsent[named] += 1
                assert unsent[named] <= UNSENT_MAX
                granted += PIECE
        assert granted <= RATE * (now + BURST_S) + PIECE
    for group in range(3):
        for number in range(4):
            queue.ended(group, (group, number))
    assert queue.deadline == math.inf
    assert queue.busy_count(0.0) == 0


def line(rate: LineRate, capacity: float, looks: int, now: float = 0.0) -> list[float]:
    """What goes through a line each look, where two groups have more than it takes."""
    through: list[float] = []
    for look in range(looks):
        passed = min(capacity, rate.bytes_per_s)
        rate.look(now + look * LOOK_S, int(passed * LOOK_S), 0.9 if rate.bytes_per_s > capacity else 0.0, 2)
        through.append(passed)
    return through


def test_the_rate_finds_the_line_and_follows_it() -> None:
    rate = LineRate()
    for turn, capacity in enumerate((2e6, 1e6, 4e6)):
        through = line(rate, capacity, 160, now=turn * 1e4)
        settled = through[80:]
        assert 0.85 * capacity <= sum(settled) / len(settled) <= capacity
        assert min(settled) >= 0.8 * capacity
        assert sum(each < capacity for each in settled) >= len(settled) // 2  # mostly it is we who decide


def test_one_group_alone_has_no_rate_and_the_owners_bound_holds_always() -> None:
    rate = LineRate(3e6)
    line(rate, 1e6, 20)
    assert rate.bytes_per_s < 1.2e6
    rate.look(1e9, 100, 0.9, 1)
    assert rate.bytes_per_s == 3e6


def test_one_who_takes_slowly_does_not_keep_the_rate_down() -> None:
    rate = LineRate()
    line(rate, 1e6, 20)
    for look in range(400):  # half of the pieces wait for one connection, and the rest goes as fast as it may
        rate.look(1e3 + look * LOOK_S, int(min(50e6, rate.bytes_per_s) * LOOK_S), 0.5, 2)
    assert rate.bytes_per_s > 5e6


def test_a_pause_of_the_machine_is_not_taken_for_a_narrow_line() -> None:
    rate = LineRate()
    line(rate, 1e6, 40)
    for look in range(8):
        rate.look(1e3 + look * LOOK_S, 1000, 1.0, 2)
    assert rate.bytes_per_s >= 0.35e6


def test_the_rate_is_lowered_once_a_while_and_never_to_nothing() -> None:
    rate = LineRate()
    now = 0.0
    while rate.bytes_per_s > MIN_BYTES_PER_S:
        before = rate.bytes_per_s
        rate.look(now, 0 if before < math.inf else 1_000_000, 1.0, 2)
        lowered = rate.bytes_per_s
        rate.look(now + WAIT_S / 2, 0, 1.0, 2)
        assert rate.bytes_per_s == lowered
        assert lowered <= before
        now += WAIT_S
    assert rate.bytes_per_s == MIN_BYTES_PER_S
