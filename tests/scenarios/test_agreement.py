"""Stories of agreement, told by the cores: each is a transcript in this folder that can be read without the code.

`SHOAL_REGENERATE=1 python -m pytest tests/scenarios/test_agreement.py` writes them anew; read the difference.
"""

import os
from collections.abc import Callable
from pathlib import Path
from textwrap import fill

import pytest

from shoal.training.agreeing import Effect
from shoal.training.members import Join
from shoal.training.spec import Quorum
from shoal.training.votes import Ballot, Proposal, Step, Vote, cast, propose
from shoal.training.voting_effects import Save, Send

from .stage import SWARM, Stage, nothing

TRANSCRIPTS = Path(__file__).parent / "transcripts"

Tells = Callable[[Stage, str], None]


@pytest.fixture
def tells(request: pytest.FixtureRequest) -> Tells:
    """Whether a story is told as it was before."""

    def check(stage: Stage, introduction: str) -> None:
        path = TRANSCRIPTS / (request.node.name.removeprefix("test_") + ".txt")
        told = "\n".join([fill(" ".join(introduction.split()), 100), "", *stage.transcript.lines, ""])
        if os.environ.get("SHOAL_REGENERATE"):
            path.write_text(told)
        assert told == path.read_text()

    return check


def saves(step: Step) -> Callable[[Effect], bool]:
    """Whether this has a vote of this step saved."""
    return lambda effect: isinstance(effect, Save) and any(vote.step is step for vote in effect.journal.votes)


def sends(step: Step) -> Callable[[Effect], bool]:
    """Whether this sends a vote of this step."""
    return lambda effect: isinstance(effect, Send) and isinstance(effect.ballot, Vote) and effect.ballot.step is step


def test_a_round_is_agreed_on(tells: Tells) -> None:
    stage = Stage("ann ben cat dan")
    stage.close()
    stage.run_until_closed()
    tells(
        stage,
        """Four members, and all is well: a proposal, prevotes, precommits. A quorum is three of them, or two with ann,
        the most senior. A record is written as whose work it takes: [ann ben].""",
    )


def test_a_proposer_is_killed_between_prevote_and_precommit(tells: Tells) -> None:
    stage = Stage("ann ben cat dan")
    first = stage.proposer()
    stage.actors[first].dies_before = saves(Step.PRECOMMIT)
    stage.close()
    stage.run_until_closed()
    stage.start(first)
    stage.run_until_closed()
    assert len(stage.decided) == 1
    tells(
        stage,
        "Who proposed is killed before it precommits. The other three are a quorum without it, and its record stands.",
    )


def test_a_locked_value_is_decided_in_a_later_attempt_as_the_same_record(tells: Tells) -> None:
    stage = Stage("ann ben cat dan", Quorum.TWO_THIRDS)
    first, second = stage.proposer(0), stage.proposer(1)
    bound, other = (name for name in stage.actors if name not in (first, second))

    def loses(sender: str, receiver: str, ballot: Ballot) -> bool:
        """In the first attempt: the proposal on its way to the second proposer, a prevote to it and to the first."""
        if ballot.attempt > 0:
            return False
        if isinstance(ballot, Proposal):
            return receiver == second
        return isinstance(ballot, Vote) and ballot.step is Step.PREVOTE and sender == bound and receiver != other

    stage.loses = loses
    stage.close(**{second: f"{first} {second}"})
    stage.run_until_closed()
    (decided,) = {actor.disk.log[0].value for actor in stage.actors.values()}
    assert decided == stage.record("ann ben cat dan").data
    assert stage.actors[first].disk.log[0].attempt == 2
    tells(
        stage,
        f"""Liars below a third are borne: three of four are a quorum. In the first attempt {bound} and {other} see a
        quorum prevote {first}'s record and are bound to it; {first} misses a prevote, and {second} the proposal: they
        are not bound. {second} then proposes another record: the two refuse it and show why. So who comes next proposes
        what they are bound to, and it is decided: the same record, two attempts later.""",
    )


def test_a_partition_of_two_and_three_heals(tells: Tells) -> None:
    stage = Stage("ann ben cat dan eve")
    stage.part("ann ben", "cat dan eve")
    stage.close()
    stage.run_until_closed("cat", "dan", "eve")
    stage.close()
    stage.run_until_closed("cat", "dan", "eve")
    stage.run(20.0)
    assert [len(stage.actors[name].disk.log) for name in ("ann", "ben", "cat", "dan", "eve")] == [0, 0, 2, 2, 2]
    stage.heal()
    stage.run_until_closed()
    stage.close()
    stage.run_until_closed()
    assert {len(actor.disk.log) for actor in stage.actors.values()} == {3}
    tells(
        stage,
        """Two of five are cut off. The three others are a quorum: they go on, and suspend the two, who decide nothing.
        When all are connected again the two are told the records, and the next one takes their work as well.""",
    )


def test_an_equivocating_voter_is_expelled(tells: Tells) -> None:
    stage = Stage("ann ben cat dan", Quorum.TWO_THIRDS)
    liar = next(name for name in reversed(stage.actors) if name not in (stage.proposer(), stage.proposer(1)))
    honest = [name for name in stage.actors if name != liar]
    stage.turn(liar)
    value = stage.record(" ".join(stage.actors))
    key = stage.actors[liar].key
    stage.close()
    stage.lie(liar, " ".join(honest[:2]), cast(key, SWARM, 1, 0, Step.PREVOTE, value.hash))
    stage.lie(liar, " ".join(honest[1:]), cast(key, SWARM, 1, 0, Step.PREVOTE, b""))
    stage.run_until_closed(*honest)
    stage.close()
    stage.run_until_closed(*honest)
    stage.close()
    stage.run_until_closed(*honest)
    assert stage.actors[honest[0]].up.position.electorate.is_barred(stage.actors[liar].peer_id)
    tells(
        stage,
        f"""{liar} prevotes the record before some and nothing before others. One who hears both has the proof, all the
        others check it, and the next record expels {liar} for good, its vote with it.""",
    )


def test_who_falls_silent_is_suspended_and_comes_back(tells: Tells) -> None:
    stage = Stage("ann ben cat dan")
    silent = stage.proposer(1)
    stage.kill(silent)
    stage.close()
    stage.run_until_closed()
    stage.close()
    stage.run_until_closed()
    stage.start(silent)
    stage.run(1.0)
    stage.close()
    stage.run_until_closed()
    assert not any(seat.is_suspended for seat in stage.actors["ann"].up.position.electorate.seats)
    tells(
        stage,
        f"""{silent} is killed. The next record suspends it: nobody waits for it any more, and it has no turns as
        proposer; three of four votes are still needed. When it is back, a record says so.""",
    )


def test_a_forged_join_is_refused(tells: Tells) -> None:
    stage = Stage("ann ben cat dan", Quorum.TWO_THIRDS, guests="eve")
    liar = stage.proposer()
    honest = [name for name in stage.actors if name not in (liar, "eve")]
    stage.turn(liar)
    value = stage.record(" ".join(honest), Join(stage.actors["eve"].peer_id, 1, b"a forged ticket"))
    stage.close()
    stage.lie(liar, " ".join(honest), propose(stage.actors[liar].key, SWARM, 1, 0, value, None))
    stage.run_until_closed(*honest)
    assert stage.actors["eve"].peer_id not in stage.actors[honest[0]].up.position.electorate.by_member
    tells(
        stage,
        f"""It is {liar}'s turn, and it proposes to let eve in, who has no ticket. All others find the ticket forged and
        prevote nothing; the next proposer's record is agreed on.""",
    )


def test_members_leave_until_one_is_left(tells: Tells) -> None:
    stage = Stage("ann ben cat dan")
    for name in ("dan", "cat", "ben"):
        stage.leave(name)
        stage.close()
        stage.run_until_closed()
        stage.run(1.0)
    stage.close()
    stage.run_until_closed()
    assert stage.actors["ann"].up.position.electorate.total == 1
    tells(stage, "One after the other leaves, by its own word, and the quorum shrinks. The last one goes on alone.")


def test_who_is_killed_between_signing_and_sending_says_the_same_again(tells: Tells) -> None:
    stage = Stage("ann ben cat dan")
    killed = stage.proposer(1)
    stage.kill(next(name for name in stage.actors if name not in (killed, stage.proposer())))
    stage.actors[killed].dies_before = sends(Step.PRECOMMIT)
    stage.close()
    stage.run(0.5)
    journal = stage.actors[killed].disk.journal
    assert journal is not None
    assert [vote.step for vote in journal.votes] == [Step.PREVOTE, Step.PRECOMMIT]
    assert not any(actor.disk.log for actor in stage.actors.values())
    stage.start(killed)
    stage.run_until_closed()
    tells(
        stage,
        f"""Three of four run. ann, whose vote makes two of four a majority, is not among them, so all three are needed.
        {killed} is killed when it has signed its precommit, and saved it, but has not sent it. When it starts again it
        says the same, from its journal, and the round ends.""",
    )


def test_who_is_restored_from_a_copy_abstains(tells: Tells) -> None:
    stage = Stage("ann ben cat dan")
    restored = stage.proposer(1)
    copy = stage.actors[restored].disk.copy()
    stage.loses = lambda sender, receiver, ballot: isinstance(ballot, Vote) and ballot.step is Step.PRECOMMIT
    stage.close()
    stage.run(0.5)
    stage.kill(restored)
    stage.narrate(f"{restored}'s data directory is restored from a copy that was made before it voted")
    stage.loses = nothing
    stage.start(restored, copy)
    stage.run_until_closed()
    own = stage.actors[restored].peer_id
    first = stage.actors["ann"].disk.log[0]
    assert own not in {each.member for each in first.precommits}
    stage.close()
    stage.run_until_closed()
    tells(
        stage,
        f"""{restored} votes, is killed, and starts again from an older copy of its disk. The others tell it what it
        voted, which it does not remember: so it says nothing more in that round, lest it say two things at once. In the
        next round it votes again.""",
    )
