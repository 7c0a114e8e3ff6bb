"""`shoal log explain` tells why a member counts as much as it does, from the log on this node's disk alone."""

import json
from pathlib import Path

from msgspec import structs

from shoal.training.agreed import opine_statement
from shoal.training.evidence import COSINE, LENGTH, Evidence
from shoal.training.members import RIGHT, Opine
from shoal.training.reputation import SUSPECT, SUSPICION_MAX, TRUST_MAX, TRUST_START
from shoal.training.skipping import Proof
from shoal.transport.identity import Identity
from tests.node.test_cli_log import ID, ORIGIN, archive, shoal
from tests.training.agreed_log import ANN, BEN, CLEO, DAN, Written, joins

GOOD = Evidence(COSINE // 2, LENGTH, COSINE // 4, 0, 0, True)
AWAY = Evidence(-COSINE // 2, LENGTH, COSINE // 4, 0, 0, True)
BAD_ROUNDS = SUSPICION_MAX // SUSPECT


def opinion(judge: Identity, member: Identity, round: int, came_out: int) -> Opine:
    said = Opine(member.peer_id, judge.peer_id, round, round - 1, came_out, bytes(64))
    return structs.replace(said, word=judge.sign(opine_statement(ID, said)))


def with_an_attacker() -> Written:
    """Dan turns against the others after round 6, until it is banned."""
    log = Written(ID, ORIGIN)
    log.write(*joins(BEN, CLEO, DAN))
    log.write()
    members = sorted(key.peer_id for key in (ANN, BEN, CLEO, DAN))
    for round in range(3, 7 + BAD_ROUNDS):
        log.write(evidence=tuple(AWAY if each == DAN.peer_id and round > 6 else GOOD for each in members))
    return log


def with_an_accuser() -> Written:
    """Dan says that Ben's work is made up; the others have done it again and find it right."""
    log = Written(ID, ORIGIN)
    log.write(*joins(BEN, CLEO, DAN))
    log.write()
    log.write(opinion(DAN, BEN, 2, 0))
    log.write(opinion(ANN, BEN, 2, RIGHT), opinion(CLEO, BEN, 2, RIGHT))
    log.write()
    return log


def test_an_attackers_story_has_its_figures_and_what_followed(tmp_path: Path) -> None:
    log = with_an_attacker()
    archive(tmp_path, log.keeps).close()
    story = json.loads(shoal(tmp_path, "explain", DAN.peer_id[-6:], "--json"))
    against = [each for each in story["rounds"] if each["held_against"]]
    assert [each["round"] for each in against] == list(range(6, 6 + BAD_ROUNDS))
    assert against[0]["evidence"]["similarity"] == -0.5 < against[0]["evidence"]["least_similarity"]
    trusts = [each["trust"] for each in story["rounds"]]
    assert TRUST_START / TRUST_MAX < trusts[0] < max(trusts) == trusts[3]
    assert story["trust"] == 0.0
    assert story["bans"] == 1
    said = shoal(tmp_path, "explain", DAN.peer_id)
    assert f"BANNED    until round {story['banned_until']}: its work counts nothing" in said
    assert "points away from what the others say" in said
    assert f"it is banned until round {story['banned_until']}" in said


def test_an_honest_members_story_is_one_line(tmp_path: Path) -> None:
    archive(tmp_path, with_an_attacker().keeps).close()
    lines = shoal(tmp_path, "explain", BEN.peer_id[-6:]).splitlines()
    assert sum("nothing" in line for line in lines) == 1
    assert not any("BANNED" in line or "banned" in line for line in lines)
    assert any(line.startswith("round 1") and "joined with 1 vote" in line for line in lines)


def test_a_verdict_is_told_to_both_sides(tmp_path: Path) -> None:
    archive(tmp_path, with_an_accuser().keeps).close()
    dan, ben = (shoal(tmp_path, "explain", key.peer_id) for key in (DAN, BEN))
    assert "verdict: it judged the work for round 2 otherwise than a quorum (1 of 3 judges found" in dan
    assert f"{DAN.peer_id[-8:]} found 0% of {BEN.peer_id[-8:]}'s work for round 2 to be so" in ben
    assert "verdict" not in ben
    story = json.loads(shoal(tmp_path, "explain", DAN.peer_id, "--json"))
    assert story["trust"] < TRUST_START / TRUST_MAX


def test_of_what_is_not_here_it_says_so(tmp_path: Path) -> None:
    log = with_an_attacker()
    kept = archive(tmp_path, log.keeps[:3])
    part = Written(ID, ORIGIN, log.keeps[:9])
    kept.leap(Proof(part.anchor(3), tuple(part.leaps(3))), part.at(9))
    kept.append(log.keeps[9:])
    kept.close()
    story = json.loads(shoal(tmp_path, "explain", DAN.peer_id, "--json"))
    assert story["gaps"] == 1
    assert story["trust"] == 0.0
    assert "1 stretch of the log not here" in shoal(tmp_path, "explain", DAN.peer_id)


def test_who_is_nobody_or_might_be_several_is_asked_for_again(tmp_path: Path) -> None:
    archive(tmp_path, with_an_attacker().keeps).close()
    assert "no member's id ends in 'nobody'" in shoal(tmp_path, "explain", "nobody", code=2)
    assert "fits several members" in shoal(tmp_path, "explain", "", code=2)
    stranger = Identity.from_seed(bytes([77]) * 32).peer_id
    assert "no record on this node's disk names" in shoal(tmp_path, "explain", stranger, code=1)
