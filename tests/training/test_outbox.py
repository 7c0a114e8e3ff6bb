"""What is still to be said to a peer, and when."""

import math

from shoal.training.outbox import BALLOTS_AT_ONCE, HELLO_EVERY_S, RETRY_S, RETRY_S_MAX, Kind, Outbox


def taken(outbox: Outbox, now: float) -> list[Kind]:
    """All that is due, each answered before the next is taken."""
    kinds: list[Kind] = []
    while (kind := outbox.take(now)) is not None:
        kinds.append(kind)
        outbox.sent(kind)
    return kinds


def under_way(outbox: Outbox, now: float) -> list[Kind]:
    """All that is said before anything is answered."""
    kinds: list[Kind] = []
    while (kind := outbox.take(now)) is not None:
        kinds.append(kind)
    return kinds


def acquainted() -> Outbox:
    """Of a peer that has answered a hello."""
    outbox = Outbox(0.0)
    assert taken(outbox, 0.0) == [Kind.HELLO]
    return outbox


def test_a_hello_comes_first_and_again_every_half_minute() -> None:
    outbox = Outbox(0.0)
    outbox.want(Kind.OFFER)
    assert taken(outbox, 0.0) == [Kind.HELLO, Kind.OFFER]
    assert outbox.wakes_at() == HELLO_EVERY_S
    assert taken(outbox, HELLO_EVERY_S - 0.1) == []
    assert taken(outbox, HELLO_EVERY_S) == [Kind.HELLO]


def test_what_is_wanted_twice_is_said_once() -> None:
    outbox = Outbox(0.0)
    taken(outbox, 0.0)
    for _ in range(1000):
        outbox.want(Kind.HAVE)
        outbox.want(Kind.BALLOTS)
    assert taken(outbox, 1.0) == [Kind.BALLOTS, Kind.HAVE]


def test_votes_go_before_all_that_can_wait() -> None:
    outbox = Outbox(0.0)
    for kind in reversed(Kind):
        outbox.want(kind)
    assert taken(outbox, 0.0) == [Kind.HELLO, Kind.BALLOTS, Kind.WORDS, Kind.OFFER, Kind.HAVE]


def test_what_has_yet_to_be_said_shows() -> None:
    outbox = Outbox(0.0)
    outbox.want(Kind.BALLOTS)
    assert outbox.is_unsaid(Kind.BALLOTS)
    assert taken(outbox, 0.0) == [Kind.HELLO, Kind.BALLOTS]
    assert not outbox.is_unsaid(Kind.BALLOTS)
    outbox.want(Kind.BALLOTS)
    assert outbox.take(1.0) is Kind.BALLOTS
    assert outbox.is_unsaid(Kind.BALLOTS)
    outbox.failed(Kind.BALLOTS, 1.0)
    assert outbox.is_unsaid(Kind.BALLOTS)


def test_what_was_wanted_while_it_was_on_its_way_is_said_again() -> None:
    outbox = Outbox(0.0)
    taken(outbox, 0.0)
    outbox.want(Kind.HAVE)
    assert outbox.take(1.0) is Kind.HAVE
    outbox.want(Kind.HAVE)
    assert outbox.take(1.0) is None  # what is made from an older state must not come later
    outbox.sent(Kind.HAVE)
    assert taken(outbox, 1.0) == [Kind.HAVE]


def test_nothing_waits_for_the_answer_to_something_else() -> None:
    outbox = acquainted()
    outbox.want(Kind.OFFER)
    assert outbox.take(1.0) is Kind.OFFER
    outbox.want(Kind.BALLOTS)
    assert outbox.take(1.0) is Kind.BALLOTS
    outbox.want(Kind.BALLOTS)
    assert outbox.take(1.1) is Kind.BALLOTS
    assert under_way(outbox, HELLO_EVERY_S) == [Kind.HELLO]


def test_so_many_messages_are_under_way_and_no_more() -> None:
    outbox, said = acquainted(), list[Kind]()
    for _ in range(10):
        for kind in Kind:
            outbox.want(kind)
        said += under_way(outbox, 1.0)
    assert sorted(said) == sorted([*Kind, *[Kind.BALLOTS] * (BALLOTS_AT_ONCE - 1)])
    assert outbox.wakes_at() == 1.0 + HELLO_EVERY_S
    outbox.sent(Kind.BALLOTS)
    assert outbox.wakes_at() <= 1.0
    assert under_way(outbox, 1.0) == [Kind.BALLOTS]


def test_a_peer_that_has_yet_to_answer_has_one_request_at_a_time() -> None:
    outbox = Outbox(0.0)
    outbox.want(Kind.OFFER)
    outbox.want(Kind.BALLOTS)
    assert under_way(outbox, 0.0) == [Kind.HELLO]
    assert outbox.wakes_at() == math.inf
    outbox.sent(Kind.HELLO)
    assert under_way(outbox, 0.0) == [Kind.BALLOTS, Kind.OFFER]
    outbox.failed(Kind.BALLOTS, 1.0)
    outbox.failed(Kind.OFFER, 1.0)
    assert outbox.wakes_at() == 1.0 + RETRY_S  # what fails together is one failure
    assert under_way(outbox, 1.0 + RETRY_S) == [Kind.BALLOTS]
    outbox.failed(Kind.BALLOTS, 2.0)
    assert outbox.wakes_at() == 2.0 + 2 * RETRY_S


def test_what_failed_is_due_again_after_pauses_that_double_up_to_a_bound() -> None:
    outbox = Outbox(0.0)
    taken(outbox, 0.0)
    outbox.want(Kind.OFFER)
    now, pauses = 1.0, list[float]()
    for _ in range(7):
        assert outbox.take(now) is Kind.OFFER
        outbox.failed(Kind.OFFER, now)
        outbox.want(Kind.HAVE)  # whatever else comes up waits as well: the peer does not answer
        assert outbox.take(now) is None
        pauses.append(outbox.wakes_at() - now)
        now = outbox.wakes_at()
    assert pauses == [min(RETRY_S_MAX, RETRY_S * 2**times) for times in range(7)]
    assert taken(outbox, now) == [Kind.OFFER, Kind.HAVE]
    outbox.want(Kind.OFFER)
    assert outbox.take(now) is Kind.OFFER
    outbox.failed(Kind.OFFER, now)
    assert outbox.wakes_at() == now + RETRY_S


def test_a_peer_outside_of_the_swarm_gets_nothing_but_a_hello_now_and_then() -> None:
    outbox = Outbox(0.0)
    outbox.want(Kind.OFFER)
    assert outbox.take(0.0) is Kind.HELLO
    outbox.dropped(Kind.HELLO)
    assert outbox.take(1.0) is None
    assert outbox.wakes_at() == HELLO_EVERY_S


def test_a_stranger_hears_nothing_before_it_spoke_or_somebody_named_it() -> None:
    stranger, named = Outbox(0.0, is_acquainted=False), Outbox(0.0, is_acquainted=False)
    assert stranger.take(1000.0) is None
    assert stranger.wakes_at() == math.inf
    stranger.meet(1000.0)
    assert stranger.take(1000.0) is None
    assert stranger.take(1000.0 + HELLO_EVERY_S) is Kind.HELLO
    named.want(Kind.HELLO)
    assert taken(named, 0.0) == [Kind.HELLO]
    assert named.take(HELLO_EVERY_S) is Kind.HELLO
