"""What a record makes of the evidence in it: of members as they were when their contributions were taken."""

from msgspec import structs

from shoal.training.conduct import Behaviour, Conduct, after
from shoal.training.evidence import COSINE, LENGTH, Evidence
from shoal.training.members import Electorate, electorate_of
from shoal.training.reputation import TRUST_START
from shoal.training.spec import Quorum
from shoal.transport.port import PeerId

MEMBERS = tuple(PeerId(name * 40) for name in "abcdefgh")
VOTERS = MEMBERS[:3]
HONEST = Evidence(int(0.8 * COSINE), LENGTH, COSINE // 2, 0, 0, is_voters=True)
AGAINST = Evidence(-COSINE // 2, LENGTH, COSINE // 4, 0, 0, is_voters=False)
EVIDENCE = (HONEST,) * 3 + (AGAINST,) * 5


def conduct(electorate: Electorate, evidence: tuple[Evidence, ...] = EVIDENCE) -> Conduct:
    found = after(Behaviour(members=MEMBERS), 1, electorate, evidence, ())
    assert isinstance(found, Conduct)
    return found


def test_who_got_votes_since_its_contribution_was_taken_is_no_voter_of_that_round() -> None:
    """Else five strangers, who are given votes now, would decide what was usual when they had none."""
    few = electorate_of(Quorum.MAJORITY, dict.fromkeys(VOTERS, 1) | dict.fromkeys(MEMBERS[3:], 0))
    many = electorate_of(Quorum.MAJORITY, dict.fromkeys(MEMBERS, 1))
    assert conduct(few) == conduct(many)
    reputation = conduct(many).reputation
    assert all(reputation.standing(member).trust > TRUST_START for member in VOTERS)
    assert all(reputation.standing(member).trust < TRUST_START for member in MEMBERS[3:])


def test_what_voters_showed_counts_though_they_have_no_votes_any_more() -> None:
    alone = electorate_of(Quorum.MAJORITY, {MEMBERS[7]: 1})
    assert conduct(alone).reputation.standing(MEMBERS[4]).trust < TRUST_START
    strangers = tuple(structs.replace(each, is_voters=False) for each in EVIDENCE)
    assert conduct(alone, strangers).reputation.standing(MEMBERS[4]).trust > TRUST_START
