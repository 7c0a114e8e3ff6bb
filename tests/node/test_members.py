"""What the commands say of a swarm's members: from the log to JSON, and from JSON to words."""

import json
from dataclasses import replace
from typing import Any

import pytest

from shoal.node.cli_members import (
    newest_line,
    quorum_line,
    remarks,
    removal_line,
    say_agreement,
)
from shoal.node.complaint import Complaint, Exit
from shoal.node.members import SHOWN_MAX, agreement_as_json, choose_member, named
from shoal.training.agreeing import Split
from shoal.training.membership_view import (
    MembershipView,
    MemberView,
    Newest,
    Removal,
    Suspension,
)
from shoal.training.records import Standing
from shoal.training.spec import Quorum
from shoal.transport.identity import Identity
from shoal.transport.port import PeerId
from tests.training.agreed_log import ANN as CREATOR
from tests.training.agreed_log import written

ANN, BEN, CLEO, DAN = sorted(Identity.from_seed(bytes([number]) * 32).peer_id for number in range(1, 5))


def member(peer: PeerId, **values: Any) -> MemberView:
    usual: dict[str, Any] = {
        "votes": 1,
        "since": 0,
        "voucher": None,
        "suspension": None,
        "weight": 0.25,
        "trust": 0.125,
        "banned_until": None,
        "taken_round": 7,
        "standing": Standing.TRAINER,
        "is_here": True,
        "silent_s": None,
        "round": 7,
    }
    return MemberView(peer=peer, **{**usual, **values})


SILENT = {"is_here": False, "silent_s": 90.0, "standing": None, "round": None, "weight": 0.0, "taken_round": 3}
VIEW = MembershipView(
    quorum=Quorum.MAJORITY,
    votes=4,
    votes_needed=3,
    votes_here=2,
    senior=ANN,
    members=(
        member(ANN),
        member(BEN, voucher=ANN, standing=Standing.PAUSED),
        member(CLEO, suspension=Suspension(5, b"\xab" * 32), **SILENT),
    ),
    barred=(DAN,),
    removals=(Removal(CLEO, (ANN,), 1, 3, is_wanted=False),),
    weighed_round=7,
    newest=Newest(7, b"\xcd" * 32, 1, BEN, 12.04),
    split=None,
    notice=None,
)
SHOWN = agreement_as_json(VIEW, ANN)


def test_programs_get_all_of_it_as_json() -> None:
    assert json.loads(json.dumps(SHOWN)) == SHOWN
    assert SHOWN["quorum"]["votes_needed"] == 3
    assert SHOWN["newest"] == {"round": 7, "record": "cd" * 32, "attempt": 1, "proposer": BEN, "age_s": 12.0}
    assert [row["is_this_node"] for row in SHOWN["members"]] == [True, False, False]
    assert SHOWN["members"][2]["suspended"] == {"round": 5, "record": "ab" * 32}
    assert SHOWN["barred"] == [DAN]
    assert SHOWN["removals"][0]["votes"] == 1


def test_a_quorum_is_said_in_words() -> None:
    half = f", or 2 with those of {ANN[-8:]}"
    here = "2 are connected, this node's among them"
    assert quorum_line(SHOWN["quorum"], 1) == f"majority: 3 of 4 votes are needed{half}; {here}"
    strict = {**SHOWN["quorum"], "rule": "two_thirds", "half_is_enough_with": None}
    assert quorum_line(strict, 1) == f"two thirds: 3 of 4 votes are needed; {here}"
    assert quorum_line(strict, 0) == "two thirds: 3 of 4 votes are needed; 2 are connected, this node has none"
    alone = {**strict, "votes": 1, "votes_needed": 1, "votes_connected": 1}
    assert quorum_line(alone, 1) == "two thirds: 1 of 1 vote is needed; 1 is connected, this node's among them"


def test_the_newest_record_is_said_in_words() -> None:
    decided = f"decided in attempt 1, proposed by {BEN[-8:]}"
    assert newest_line(SHOWN["newest"]) == f"record cdcdcdcdcdcd of round 7, {decided}; heard 12 s ago"
    old = {**SHOWN["newest"], "attempt": None, "age_s": None}
    assert newest_line(old) == "record cdcdcdcdcdcd of round 7; heard before this node started"
    assert newest_line({**old, "round": 0}) == "no record yet"


def test_what_is_to_be_said_of_each_member() -> None:
    ann, ben, cleo = map(remarks, SHOWN["members"])
    assert ann == "this node"
    assert ben == f"connected, paused, votes from {ANN[-8:]}"
    silence = "not heard for 90 s, SUSPENDED as silent since round 5 (record abababababab)"
    assert cleo == f"not connected, {silence}, last contributed to the record of round 3"
    old = {**SHOWN["members"][2], "suspended": {"round": None, "record": None}}
    assert "by a record older than those at hand" in remarks(old)


def test_a_removal_says_who_wants_it_and_what_is_missing() -> None:
    assert removal_line(SHOWN["removals"][0]) == f"1 of 3 votes needed, by {ANN[-8:]}"
    wanted = {**SHOWN["removals"][0], "votes": 3, "is_wanted": True}
    assert removal_line(wanted) == f"3 of 3 votes needed, by {ANN[-8:]}; the next record says it"


def test_a_split_is_shown_with_both_records_and_who_signed_both(capsys: pytest.CaptureFixture[str]) -> None:
    log = written(2)
    split = Split(log.decided(1), log.decided(2))
    say_agreement(SHOWN)
    assert "SPLIT" not in capsys.readouterr().out
    say_agreement(agreement_as_json(replace(VIEW, split=split), ANN))
    said = capsys.readouterr().out
    assert "SPLIT     round 1 has two certified records" in said
    assert f"signed both: {CREATOR.peer_id}" in said
    assert f"barred    {DAN}" in said


def test_a_member_is_named_by_its_id_or_by_an_end_that_no_other_has() -> None:
    assert choose_member(BEN, VIEW) == choose_member(BEN[-6:], VIEW) == BEN
    with pytest.raises(Complaint, match="fits several members") as caught:
        choose_member("12D3KooW", VIEW)
    assert caught.value.code is Exit.USAGE
    with pytest.raises(Complaint, match=f"{DAN} was removed for good already"):
        choose_member(DAN[-6:], VIEW)
    with pytest.raises(Complaint, match=f"no member's id begins or ends with 'x'; the members are {ANN}"):
        choose_member("x", VIEW)


def test_of_many_members_some_are_named() -> None:
    assert named([ANN] * SHOWN_MAX).count(ANN) == SHOWN_MAX
    assert named([ANN] * (SHOWN_MAX + 3)).endswith(" and 3 more")
