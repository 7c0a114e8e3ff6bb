"""docs/protocol.md says what members say to one another, byte by byte."""

import re
from itertools import combinations
from math import comb
from pathlib import Path

import pytest
from blake3 import blake3

from shoal.crdt.compact import WriterMark
from shoal.training import calls
from shoal.training.agreed import AgreedRecord, Position, Share, StoreMark, next_record, record_value
from shoal.training.conduct import Conduct
from shoal.training.evidence import Evidence
from shoal.training.history import Made, Part
from shoal.training.members import Change, Electorate, Seat, electorate_of
from shoal.training.records import Contribution, Head, Presence, seal_contribution
from shoal.training.reputation import (
    AGREED,
    COPIES_KEPT,
    COPY,
    GROWTH,
    KNOWN,
    LONG,
    REPEATED,
    STANDINGS_MAX,
    SUSPECT,
    SUSPICION_MAX,
    TOLERANCE,
    TOLERANCE_MIN,
    TRUST_MAX,
    TRUST_START,
    Copies,
    Reputation,
    Standing,
)
from shoal.training.scalar_codes import MAGNITUDES
from shoal.training.spec import Quorum
from shoal.training.verdicts import CASE_ROUNDS, CASES_MAX, CASES_OF_JUDGE_MAX, Case, Opinion
from shoal.training.votes import Ballot, Decided, Polka, ShortBallot, Signed, Step, cast, propose, signatures_of
from shoal.transport.identity import Identity
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed, Message, encode

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
PAGE = (DOCS / "protocol.md").read_text()

KEY = Identity.from_seed(bytes(range(32)))
SWARM = bytes(32)
ELECTORATE = electorate_of(Quorum.MAJORITY, {KEY.peer_id: 1})
OFFERED = seal_contribution(KEY, SWARM, 7, Contribution(6, bytes(32), b"\x11" * 32, 640, b"\x01\x02"))

MESSAGES: list[type[Message]] = [
    *(Contribution, Presence, Head),
    *(calls.Hello, calls.Offer, calls.Have, calls.Ballots, calls.Words, calls.Ack),
    *(calls.AskHead, calls.TellHead, calls.AskLog, calls.TellLog, calls.AskProof, calls.TellProof),
    *(calls.AskStore, calls.TellStore, calls.AskHistory, calls.TellHistory, Made, Part),
    *(calls.AskContributions, calls.TellContributions, calls.AskSpec),
    *(AgreedRecord, Share, StoreMark, WriterMark, Seat),
    *(Ballot.__args__),
    *(Polka, Signed, ShortBallot),
    *(Change.__args__),
]


def row(message: type[Message]) -> str:
    tag = message.__struct_config__.tag
    fields = ", ".join(message.__struct_fields__) or "none"
    return f"| `{message.__name__}` | {'' if tag is None else tag} | {fields} |"


@pytest.mark.parametrize(
    "message", [Conduct, Reputation, Standing, Copies, Case, Opinion, Evidence], ids=lambda each: each.__name__
)
def test_what_conduct_is_made_of_stands_there(message: type[Message]) -> None:
    fields = ", ".join(message.__struct_fields__)
    assert re.search(rf"\| `{message.__name__}` \| {fields}[ :]", PAGE)


def test_the_figures_of_conduct_are_those_of_the_code() -> None:
    least = f"max({TOLERANCE} u, floor(m / 2), {TOLERANCE_MIN})"
    for text in (
        f"repeated >= {REPEATED} (a free ride)",
        f"similarity < m - {least} (an attack)",
        f"length >= {LONG}, eight times the usual",
        f"nearest >= {COPY}, as",
        f"the median m is {AGREED} or more",
        f"the {COPIES_KEPT}th contribution",
        f"trust {TRUST_START} of {TRUST_MAX}",
        f"grows by {GROWTH} / (1 + bans)",
        f"suspicion grows by {SUSPECT}; at {SUSPICION_MAX} it is banned",
        f"fewer than {CASES_MAX}, and fewer than {CASES_OF_JUDGE_MAX} that",
        f"at most {CASE_ROUNDS} rounds before",
        f"more than {STANDINGS_MAX:,} standings voters' stay, then those that are banned or have more than {KNOWN}",
    ):
        assert text in PAGE


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.__name__)
def test_every_message_stands_there_with_its_fields(message: type[Message]) -> None:
    assert row(message) in PAGE


def test_every_call_stands_there() -> None:
    for name in calls.Calls(SWARM).names():
        prefix, _, method = name.rpartition("/")
        assert prefix == f"/shoal/swarm/{calls.PROTOCOL_VERSION}/{SWARM[:16].hex()}"
        assert f"| {method} | `" in PAGE


def grouped(data: bytes) -> str:
    text = data.hex()
    return " ".join(text[at : at + 8] for at in range(0, len(text), 8))


def test_the_examples_are_what_the_code_makes() -> None:
    record = next_record(
        Position(6, b"\x22" * 32, ELECTORATE), b"\x11" * 32, [Share(KEY.peer_id, 7, 6, OFFERED.hash, 640)]
    )
    assert not isinstance(record, Malformed)
    value = record_value(record)
    prevote, precommit = (cast(KEY, SWARM, 7, 0, step, value.hash) for step in Step)
    decided = Decided(7, 0, value.data, signatures_of([precommit]))
    shown = [
        OFFERED.envelope,
        value.data,
        encode(prevote),
        encode(propose(KEY, SWARM, 7, 0, value, None)),
        encode(decided),
    ]
    for data in (*shown[:1], *shown[2:]):
        assert f"{len(data)} bytes and the hash `{grouped(blake3(data).digest())}`" in PAGE
    assert f"{len(value.data)} bytes and the hash `{grouped(value.hash)}`" in PAGE
    assert f"`{grouped(ELECTORATE.digest())}`" in PAGE


def sides(quorum: Quorum, count: int) -> tuple[int, int]:
    """How many of so many members may be gone: whoever they are; and all but the most senior one."""
    electorate = electorate_of(quorum, {PeerId(f"m{number}"): 1 for number in range(count)})
    anybody = max(gone for gone in range(count) if _goes_on(electorate, gone, spares_senior=False))
    but_senior = max(gone for gone in range(count) if _goes_on(electorate, gone, spares_senior=True))
    return anybody, but_senior


def _goes_on(electorate: Electorate, gone: int, *, spares_senior: bool) -> bool:
    members = [member for member in electorate.by_member if not (spares_senior and member == electorate.senior)]
    return all(electorate.is_quorum(electorate.by_member.keys() - set(left)) for left in combinations(members, gone))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 10])
def test_what_a_swarm_bears_is_what_its_quorums_say(count: int) -> None:
    majority, thirds = sides(Quorum.MAJORITY, count), sides(Quorum.TWO_THIRDS, count)
    assert thirds[0] == thirds[1] == (count - 1) // 3
    but = "" if majority[0] == majority[1] else f"; {majority[1]} if the most senior stays"
    assert f"| {count} | {majority[0]}{but} | 0 | {thirds[0]} | {(count - 1) // 3} |" in PAGE


def test_committees_fail_as_seldom_as_is_said() -> None:
    rows = re.findall(r"^\| (\d+) \| (\d+): \d+% \| (\d+): \d+% \| (\d+): \d+% \| none \|$", PAGE, re.MULTILINE)
    assert len(rows) == 4
    for text, *sizes in rows:
        count = int(text)
        for size, share in zip(map(int, sizes), (1 / 10, 1 / 5, 1 / 4), strict=True):
            liars = int(count * share)
            assert fails(count, liars, size) <= 1e-9 < fails(count, liars, size - 3)


def fails(count: int, liars: int, size: int) -> float:
    """How probable it is that a third of a committee of this size lies."""
    bad = (comb(liars, each) * comb(count - liars, size - each) for each in range((size + 2) // 3, size + 1))
    return sum(bad) / comb(count, size)


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_tests_that_are_named_exist(page: Path) -> None:
    for name in re.findall(r"`(tests/[^`]*)`", page.read_text()):
        assert list(DOCS.parent.glob(name.rstrip("/"))), name


def test_the_magnitudes_of_slopes_stand_there() -> None:
    rows = [MAGNITUDES[first : first + 8] for first in range(0, 128, 8)]
    for each in rows:
        assert "    " + " ".join(f"{magnitude:>10}" for magnitude in each) in PAGE
