"""Members driven against one another: never two records for a round, nor two states; and all come to the end."""

from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.training.log import ROUNDS_SERVED
from tests.training.round_company import Company, Weather

SEEDS = st.integers(0, 2**32)


def check(company: Company, rounds: int) -> None:
    company.run(rounds)
    for round, heads in company.heads.items():
        assert len(heads) == 1, round
    logs = sorted((disk.log for disk in company.disks.values()), key=len)
    for log in logs:
        assert [decided.value for decided in log] == [decided.value for decided in logs[-1][: len(log)]]


@settings(max_examples=40)
@given(st.integers(1, 6), SEEDS)
def test_members_reach_the_rounds_in_whatever_order_messages_come(count: int, seed: int) -> None:
    company = Company(count, seed)
    check(company, 3)
    assert company.problems == []


@settings(max_examples=20)
@given(st.integers(2, 5), SEEDS, st.sampled_from([0.0, 0.1, 0.3]))
def test_members_reach_the_rounds_though_messages_are_lost_and_late(count: int, seed: int, loss: float) -> None:
    check(Company(count, seed, Weather(loss=loss, haste=0.1)), 3)


@settings(max_examples=20)
@given(st.integers(1, 5), SEEDS)
def test_members_reach_the_rounds_though_they_are_killed_and_start_again(count: int, seed: int) -> None:
    check(Company(count, seed, Weather(loss=0.05, kill=0.02, haste=0.05)), 3)


@settings(max_examples=15)
@given(st.integers(3, 5), SEEDS)
def test_members_that_bear_liars_reach_the_rounds_too(count: int, seed: int) -> None:
    check(Company(count, seed, Weather(loss=0.1, kill=0.01, haste=0.05), quorum="two_thirds"), 3)


@settings(max_examples=10)
@given(st.integers(2, 4), SEEDS)
def test_who_comes_late_gets_to_where_the_others_are_and_takes_part(count: int, seed: int) -> None:
    company = Company(count, seed, Weather(loss=0.05), late=1)
    company.run(ROUNDS_SERVED + 3)
    late = list(company.people)[-1]
    company.start(late)
    check(company, max(company.heads) + 8)
    ledger = company.members[late].rounds.ledger
    records = [closed.record for round in range(ledger.newest + 1) if (closed := ledger.closed(round)) is not None]
    assert company.members[late].rounds.electorate.votes(late) == 1
    assert late in {share.member for record in records for share in record.taken}


def test_the_same_seed_is_the_same_run() -> None:
    runs = [Company(4, 7, Weather(loss=0.1, kill=0.01)) for _ in range(2)]
    for company in runs:
        company.run(3)
    assert runs[0].heads == runs[1].heads
    assert runs[0].now == runs[1].now
