"""What one member has heard in one round's voting, and what a quorum has said by it. No I/O.

Proposals, votes, the values that they name, and the newest polka that any of them shows. What this member does about it
stands in voting.py, and what a malicious one may send. What is kept of that is bounded: PROPOSALS_KEPT proposals here,
votes in ballot_box.py, values in named_values.py.
"""

from collections.abc import Callable, Iterator, Set
from typing import Final

from shoal.transport.port import PeerId

from .ballot_box import BallotBox
from .members import Electorate
from .named_values import NamedValues
from .votes import Decided, Polka, Proposal, Signed, Step, Value, Vote, signatures_of, value_of, without_polka
from .voting_effects import Accuse, Judge

PROPOSALS_KEPT: Final = 16  # of all proposers together


class Heard:
    """See the module's text. Messages that come in have been checked by `votes.fault`."""

    def __init__(
        self, round: int, electorate: Electorate, follows: Callable[[Value], bool], needed: Callable[[], Set[bytes]]
    ) -> None:
        """Args:
        needed: hashes of values that this member needs though nobody may have named them.
        """
        self._round = round
        self._electorate = electorate
        self._follows = follows
        self.values = NamedValues(lambda: self._named() | needed())
        self.proposals: dict[int, Proposal] = {}  # by attempt
        self.votes = BallotBox()
        self.polka: Polka | None = None  # the newest

    # What comes.

    def vote(self, vote: Vote) -> list[Accuse]:
        """By itself, or shown by another message; this member's own ones included."""
        if not self._electorate.votes(PeerId(vote.voter)):
            return []
        if vote.bound_by is not None:
            self.learn(vote.bound_by)
        bare = without_polka(vote)  # with a polka each may take half a megabyte
        before = self.votes.put(bare)
        return [] if before is None else [Accuse(before, bare)]

    def proposal(self, proposal: Proposal, here: int) -> list[Accuse]:
        """Another member's; `here` is this member's attempt."""
        proposer, attempt = PeerId(proposal.proposer), proposal.attempt
        if proposer != self._electorate.proposer(self._round, attempt):
            return []
        before = self.proposals.get(attempt)
        if before is not None:
            is_same = before.value == proposal.value and before.polka_attempt == proposal.polka_attempt
            return [] if is_same else [Accuse(before, proposal)]
        if proposal.polka_attempt is not None:
            polka = Polka(proposal.polka_attempt, proposal.value, proposal.prevotes)
            if not self.learn(polka):
                return []
        value = self.values.know(value_of(proposal.value))
        if not self._follows(value):
            self.values.find(value.hash, is_sound=False)
        self.proposals[attempt] = proposal
        if len(self.proposals) > PROPOSALS_KEPT:
            # The farthest from here: a liar's for attempts that nobody will ever reach are the first to go.
            del self.proposals[max(self.proposals, key=lambda each: abs(each - here))]
        self.votes.reach(proposer, attempt)
        return []

    def own(self, proposal: Proposal) -> None:
        """This member's proposal."""
        self.proposals[proposal.attempt] = proposal
        self.values.know(value_of(proposal.value))

    def learn(self, polka: Polka) -> bool:
        """Whether it is what it says. The newest is what this member will propose."""
        value = value_of(polka.value)
        if not self._electorate.have_signed(polka.prevotes) or not self._follows(value):
            return False
        if self.polka is None or polka.attempt > self.polka.attempt:
            self.polka = polka
            self.values.know(value)
        self.values.back(value.hash)
        return True

    def is_certified(self, decided: Decided) -> bool:
        """Whether a quorum has precommitted it, and it can come next."""
        return self._electorate.have_signed(decided.precommits) and self._follows(value_of(decided.value))

    # What follows from it.

    def precommitted(self) -> tuple[int, bytes, tuple[Signed, ...]] | None:
        """The attempt in which a quorum has precommitted one value, that value's hash, and the signatures."""
        voters = self.votes.voters(Step.PRECOMMIT)
        # Counted first: liars who vote in ever other attempts must not have all votes sorted anew for each of these.
        for attempt in sorted(each for each in voters if self._electorate.is_quorum(voters[each])):
            for choice, precommits in self.quorums(attempt, Step.PRECOMMIT):
                if self.values.verdict(choice) is not False:
                    return attempt, choice, precommits
        return None

    def quorums(self, attempt: int, step: Step) -> Iterator[tuple[bytes, tuple[Signed, ...]]]:
        """What a quorum has chosen in this step, of the values that are known, and its signatures."""
        votes = self.votes.cast_in(attempt, step)
        for choice in self.values.among(vote.choice for vote in votes.values()):
            signatures = signatures_of(vote for vote in votes.values() if vote.choice == choice)
            if self._electorate.have_signed(signatures):
                yield choice, signatures

    def is_for_nothing(self, attempt: int, step: Step) -> bool:
        """Whether a quorum is, in this step."""
        votes = self.votes.cast_in(attempt, step)
        return self._electorate.is_quorum(voter for voter, vote in votes.items() if not vote.choice)

    def has_quorum(self, attempt: int, step: Step) -> bool:
        """Whether a quorum has taken this step or is past it: who goes on without it does not take it any more."""
        past = set(self.votes.at_least(attempt + 1))
        there = (self.votes.cast_in(attempt, each) for each in Step if each >= step)
        return self._electorate.is_quorum(past.union(*there))

    def to_judge(self, attempt: int) -> list[Judge]:
        """What is worth it for who is in this attempt. A liar's values for attempts that nobody has reached may be as
        many as it likes: they cost the others nothing.
        """
        near = (self.proposals.get(each) for each in (attempt, attempt + 1))
        return self.values.to_judge(value_of(proposal.value).hash for proposal in near if proposal is not None)

    def _named(self) -> set[bytes]:
        """Values that proposals and the polka name."""
        named = [proposal.value for proposal in self.proposals.values()]
        named += [] if self.polka is None else [self.polka.value]
        return {value_of(data).hash for data in named}
