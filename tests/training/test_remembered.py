"""What a state remembers of members is bounded, canonical, and nothing else passes for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.training.evidence import (
    COSINE,
    LENGTH_MAX,
    OVERLAP,
    ROUNDS_KEPT,
    SKETCHED,
    SKETCHES_MAX,
    Evidence,
    Sketched,
    Testimony,
)
from shoal.training.records import MEMBERS_MAX
from shoal.training.remembered import (
    EMPTY,
    LATELY,
    REMEMBERED_BYTES_MAX,
    Remembered,
    Sighting,
    open_remembered,
    remembered_bytes,
    sighted,
)
from shoal.transport.wire import PEER_ID_CHARS_MAX, Malformed, encode

NEWEST = 40
SOME = Remembered(
    (Sighting("a", 39), Sighting("b", 40)),
    Testimony((Evidence(5, 256, -7, 0, 3),), (Sketched((b"\x01\x02",), (b"\x03",)),)),
)


def refusal(remembered: Remembered, round: int = NEWEST) -> str:
    opened = open_remembered(encode(remembered), round)
    assert isinstance(opened, Malformed), opened
    return opened.reason


def test_a_voter_is_counted_on_for_so_many_rounds_after_its_last_contribution() -> None:
    seen = sighted(sighted((), 1, ["b", "a"]), 2, ["c", "b"])
    assert seen == (Sighting("a", 1), Sighting("b", 2), Sighting("c", 2))
    assert [sighting.member for sighting in sighted(seen, LATELY, ())] == ["a", "b", "c"]
    assert [sighting.member for sighting in sighted(seen, LATELY + 1, ())] == ["b", "c"]
    assert sighted(seen, LATELY + 2, ["d"]) == (Sighting("d", LATELY + 2),)


def test_no_more_than_so_many_are_and_of_more_those_seen_last() -> None:
    before = sighted((), 1, [f"{number:05}" for number in range(MEMBERS_MAX)])
    seen = sighted(before, 2, ["late", "later"])
    assert len(seen) == MEMBERS_MAX
    assert [sighting.member for sighting in seen[-3:]] == [f"{MEMBERS_MAX - 3:05}", "late", "later"]


def test_it_survives_being_saved() -> None:
    assert open_remembered(remembered_bytes(SOME), NEWEST) == SOME
    assert remembered_bytes(EMPTY) == b""
    assert open_remembered(b"", NEWEST) == EMPTY


def test_the_largest_fits() -> None:
    voters = tuple(Sighting(f"{number:0{PEER_ID_CHARS_MAX}}", 2**62) for number in range(MEMBERS_MAX))
    evidence = (Evidence(-COSINE, LENGTH_MAX, -COSINE, MEMBERS_MAX - 1, OVERLAP),) * MEMBERS_MAX
    sketches = (Sketched((b"\xff" * (SKETCHED // 8),) * (SKETCHES_MAX // ROUNDS_KEPT)),) * ROUNDS_KEPT
    largest = Remembered(voters, Testimony(evidence, sketches))
    assert open_remembered(remembered_bytes(largest), 2**62) == largest
    assert len(remembered_bytes(largest)) <= 134_000


@pytest.mark.parametrize(
    ("voters", "reason"),
    [
        ((Sighting("b", 40), Sighting("a", 40)), "not sorted"),
        ((Sighting("a", 39), Sighting("a", 40)), "twice"),
        ((Sighting("a", 41),), "other rounds"),
        ((Sighting("a", NEWEST - LATELY),), "other rounds"),
        ((Sighting("", 40),), "length"),
        ((Sighting("a" * (PEER_ID_CHARS_MAX + 1), 40),), "length"),
        (tuple(Sighting(f"{number:05}", 40) for number in range(MEMBERS_MAX + 1)), "length"),
    ],
    ids=["unsorted", "twice", "to come", "too old", "nameless", "long name", "many"],
)
def test_voters_that_cannot_be_are_refused(voters: tuple[Sighting, ...], reason: str) -> None:
    assert reason in refusal(Remembered(voters))


@pytest.mark.parametrize(
    "testimony",
    [
        Testimony((Evidence(similarity=COSINE + 1),)),
        Testimony((Evidence(length=-1),)),
        Testimony((Evidence(repeated=OVERLAP + 1),)),
        Testimony((Evidence(),) * (MEMBERS_MAX + 1)),
        Testimony((), (Sketched((bytes(SKETCHED // 8 + 1),)),)),
        Testimony((), (Sketched(),) * (ROUNDS_KEPT + 1)),
    ],
    ids=["similarity", "length", "repeated", "evidence", "sketch", "sketches"],
)
def test_a_testimony_out_of_bounds_is_refused(testimony: Testimony) -> None:
    assert refusal(Remembered((), testimony))


def test_only_one_form_is_taken() -> None:
    assert "canonical" in refusal(EMPTY)
    longer = encode(SOME).replace(encode(SOME.voters[0]), b"\x92\xa1a\xcc" + bytes([39]))  # 39 in two bytes
    opened = open_remembered(longer, NEWEST)
    assert isinstance(opened, Malformed)
    assert "canonical" in opened.reason


def test_too_many_bytes_are_refused_unread() -> None:
    assert "exceeds" in str(open_remembered(bytes(REMEMBERED_BYTES_MAX + 1), NEWEST))


@given(st.binary(min_size=1, max_size=200), st.integers(0, 100))
def test_any_bytes_are_a_memory_or_malformed(noise: bytes, at: int) -> None:
    sound = encode(SOME)
    for data in (noise, sound[: at % len(sound)] + noise, sound + noise):
        opened = open_remembered(data, NEWEST)
        assert isinstance(opened, Malformed) or encode(opened) == data
