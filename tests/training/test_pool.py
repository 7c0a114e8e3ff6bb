"""What waits to be taken: each contribution is fetched and checked once, counted once, and let go of in time."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from shoal.training.effects import CheckPayload, FetchPayload
from shoal.training.pool import Pool, place_of
from shoal.training.records import Head, Offered
from tests.training.round_member import ANN, BEN, PEOPLE, START, blob, contribution, done, events, of_kind

LATER = Head(1, b"\x01" * 32, bytes(32))


def pool(rounds_max: int = 3, *, can_check: bool = True) -> Pool:
    return Pool(rounds_max, can_check=can_check)


def test_a_payload_inside_of_its_message_is_checked_and_one_outside_is_fetched_first() -> None:
    inside, outside = contribution(ANN), contribution(BEN, payload=blob(BEN))
    waiting = pool()
    assert waiting.hear(inside) == [CheckPayload(inside)]
    assert waiting.hear(outside) == [FetchPayload(outside)]
    assert waiting.held() == ()
    waiting.hold(inside)
    assert waiting.held() == (inside.hash,)


def test_where_nothing_can_be_checked_what_is_here_is_held() -> None:
    waiting = pool(can_check=False)
    assert waiting.hear(contribution(ANN)) == []
    assert waiting.held() == (contribution(ANN).hash,)


def test_what_is_heard_again_is_neither_fetched_nor_checked_again() -> None:
    waiting, offered = pool(), contribution(ANN)
    assert done(waiting.hear(offered))
    assert waiting.hear(offered) == []
    waiting.hold(offered)
    assert waiting.hear(offered) == []
    other = contribution(BEN)
    waiting.hear(other)
    waiting.refuse(other)
    assert waiting.hear(other) == []
    assert waiting.is_refused(other.hash)
    assert not waiting.is_held(other.hash)


def test_the_first_in_a_place_counts_and_that_there_is_another_is_said_once() -> None:
    waiting, one, two, three = pool(), *(contribution(ANN, samples=samples) for samples in (1, 2, 3))
    done(waiting.hear(one))
    (problem,) = events(done(waiting.hear(two)))
    assert "has signed two contributions to round 1 from one state" in str(problem)
    assert "heard first" in str(waiting.hear(two))
    assert "heard first" in str(waiting.hear(three))
    assert list(waiting.all()) == [one]
    waiting.keep(lambda _: False)
    done(waiting.hear(one))
    assert len(events(done(waiting.hear(two)))) == 1  # of another round it would be news


def test_who_has_taken_over_another_state_and_contributes_again_is_not_said_to_have_signed_two() -> None:
    waiting, one = pool(), contribution(ANN)
    done(waiting.hear(one))
    moved = contribution(ANN, base=structs.replace(START, digest=b"\x09" * 32))
    assert waiting.hear(moved) == "another contribution of that member was heard first"
    assert waiting.take_in(moved) == [CheckPayload(moved)]


def test_that_a_record_takes_another_than_was_heard_first_is_said() -> None:
    waiting, one, two = pool(), contribution(ANN, samples=1), contribution(ANN, samples=2)
    done(waiting.hear(one))
    assert len(events(waiting.take_in(two))) == 1
    assert events(waiting.take_in(two)) == []


def test_a_contribution_to_the_same_round_from_another_state_has_a_place_of_its_own() -> None:
    waiting = pool()
    for offered in (contribution(ANN, 2), contribution(ANN, 2, LATER)):
        done(waiting.hear(offered))
    assert [place_of(each) for each in waiting.of(ANN.peer_id)] == [(2, 0), (2, 1)]


def test_what_a_record_takes_is_known_though_another_was_heard_first() -> None:
    waiting, one, two = pool(), contribution(ANN, samples=1), contribution(ANN, samples=2)
    done(waiting.hear(one))
    assert of_kind(waiting.take_in(two), CheckPayload) == [CheckPayload(two)]
    waiting.hold(two)
    assert waiting.get(two.hash) is two
    assert list(waiting.all()) == [one]


def test_of_one_member_so_many_wait_and_no_more() -> None:
    waiting = pool(rounds_max=3)
    heard = [waiting.hear(contribution(ANN, round)) for round in range(1, 6)]
    assert [isinstance(each, str) for each in heard] == [False, False, False, True, True]
    assert done(waiting.hear(contribution(BEN, 5)))


def test_a_payload_that_is_gone_from_the_disk_may_be_fetched_again() -> None:
    waiting, offered = pool(), contribution(ANN, payload=blob(ANN))
    waiting.hear(offered)
    waiting.hold(offered)
    waiting.drop(offered)
    assert waiting.held() == ()
    assert waiting.take_in(offered) == [FetchPayload(offered)]


def test_what_is_let_go_of_makes_room_and_may_come_again() -> None:
    waiting, old, new = pool(rounds_max=1), contribution(ANN, 1), contribution(ANN, 2)
    waiting.hear(old)
    waiting.hold(old)
    waiting.keep(lambda offered: offered.round > 1)
    assert waiting.held() == ()
    assert waiting.get(old.hash) is None
    assert waiting.hear(new) == [CheckPayload(new)]


def test_the_version_grows_with_whatever_a_record_could_take() -> None:
    waiting, offered = pool(), contribution(ANN)
    versions = [waiting.version]
    waiting.hear(offered)
    assert waiting.version == versions[-1]  # nothing can be taken yet
    for change in (waiting.hold, waiting.refuse, waiting.drop):
        change(offered)
        versions.append(waiting.version)
    waiting.keep(lambda _: False)
    versions.append(waiting.version)
    assert versions == sorted(set(versions))


OFFERS = [contribution(who, round) for who in PEOPLE[:3] for round in (1, 2, 3)]


@given(st.permutations(OFFERS))
def test_what_counts_is_sorted_whatever_came_first(offers: list[Offered]) -> None:
    waiting = pool()
    for offered in offers:
        done(waiting.hear(offered))
        waiting.hold(offered)
    assert list(waiting.all()) == OFFERS
    assert waiting.held() == tuple(sorted(offered.hash for offered in OFFERS))
