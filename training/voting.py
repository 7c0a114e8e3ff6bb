"""How the members agree on one record without a coordinator: one round's voting, as one member lives it. No I/O.

Two-step voting with locks (Buchman, Kwon, Milosevic 2018, "The latest gossip on BFT consensus", algorithm 1). In each
attempt the proposer whose turn it is names a value; members who hold all of it and find it sound prevote it, others
nothing; who sees a quorum prevote one value is bound to it and precommits it; a quorum's precommits of one attempt
decide, and are the certificate. Who is bound prevotes nothing else, until a quorum has prevoted something else in a
later attempt. An attempt that leads nowhere is followed by the next, with another proposer and more patience.

The law: no two honest members ever decide differently, whatever is lost, late, repeated or forged and whoever stops
and starts again, as long as any two quorums share an honest member (`members.Quorum`). Once messages arrive within the
timeouts, the first attempt whose proposer is honest and knows of the newest lock decides; whoever is bound tells, with
proof, when it votes for nothing, so at most one attempt of an honest proposer is lost to that.

What differs from the paper: a quorum is any set that `Electorate.is_quorum`; a proposal that names an earlier attempt
carries its prevotes, so that nobody must have heard them; a vote for nothing shows what binds its voter; messages are
repeated instead of assumed to arrive; and with crashes alone (`MAJORITY`) one voice from a later attempt is enough to
follow it, because nobody lies.

Among many members the votes of a first attempt go to its proposer alone, who passes on each quorum's in one message
(`Tally`): 5 n messages instead of 2 n^2, for two more ways. That is nothing but another way for the same signed votes,
and nobody depends on it: for nothing, a second time, or if the proposer is gone, they are said to all.

What a malicious member may send: any proposals and votes of its own, different ones to everybody, late or never, for
any attempt. What it achieves, below the quorum's bound: lost attempts while it is its turn, and proof against itself
(`Accuse`). It cannot have more than a few of its votes remembered, nor drag others into far attempts alone.
"""

import math
from collections.abc import Callable
from typing import Final

from shoal.transport.envelope import Signer
from shoal.transport.port import PeerId

from .heard import Heard
from .members import Electorate
from .repeating import Repeating
from .votes import (
    ATTEMPTS_MAX,
    Ballot,
    Decided,
    Journal,
    Polka,
    Proposal,
    Step,
    Tally,
    Value,
    Vote,
    cast,
    propose,
    shown_by,
    value_of,
)
from .voting_effects import Began, Effect, Save, Send, Timeouts

FOLLOWED_MAX: Final = ATTEMPTS_MAX // 2  # who comes there by waiting needs centuries; a liar leaves room for more


class Voting:
    """See the module's text. Messages that come in have been checked by `votes.fault`."""

    def __init__(
        self,
        swarm: bytes,
        round: int,
        electorate: Electorate,
        signer: Signer,
        timeouts: Timeouts,
        follows: Callable[[Value], bool],
        journal: Journal | None = None,
    ) -> None:
        """Args:
        follows: whether a value can come next at all, which everybody finds alike; no other is decided.
        journal: what was saved last, of whatever round: this member has signed that.
        """
        self.round = round
        self._follows = follows
        self.electorate = electorate
        self._swarm = swarm
        self._signer = signer
        self._me = signer.peer_id
        self._timeouts = timeouts
        self._is_voter = electorate.votes(self._me) > 0
        self.attempt = 0
        self.decided: Decided | None = None
        self._step: Step | None = None  # the last one taken in this attempt
        self._candidate: Value | None = None
        self._undisputed: Value | None = None
        self._is_ready = False
        self._bound: Polka | None = None
        self._heard = Heard(round, electorate, follows, self._needed)
        self.votes = self._heard.votes  # all that have come, and are kept
        self._step_until = math.inf
        self._attempt_until = math.inf
        self._repeating = Repeating()
        self._are_many = len(electorate.seats) >= timeouts.passed_on_from
        self._is_loud = False  # what this member votes it says to all
        self._journal_attempt = 0  # what it said before is not in the journal, but for what that bound it to
        self.hears: Callable[[PeerId], bool] = lambda _: True  # whether a member is connected
        if journal is not None and journal.round == round:
            self._recall(journal)

    @property
    def deadline(self) -> float:
        """When to call `look` even if nothing happens."""
        return math.inf if self.decided else min(self._step_until, self._attempt_until, self._repeating.at)

    def be_patient(self, timeouts: Timeouts) -> None:
        """From the next step on."""
        self._timeouts = timeouts

    def abstain(self) -> None:
        """Say nothing in this round."""
        self._is_voter = False

    def said(self) -> list[Ballot]:
        """What this member has to say at present, to whoever may have missed it."""
        proposal = self._heard.proposals.get(self.attempt)
        return [*([] if proposal is None else [proposal]), *map(self._shown, self._own())]

    def is_known(self, hash: bytes) -> bool:
        """Whether the value is still kept."""
        return hash in self._heard.values

    def remembers(self, vote: Vote) -> bool:
        """Whether this member knows that it has cast `vote`, or a later one."""
        known = {(own.attempt, own.step): own.choice for own in self.votes.of(self._me, 0)}
        place = vote.attempt, vote.step
        if place in known:
            return known[place] == vote.choice
        return vote.attempt < self._journal_attempt or place < max(known, default=place)

    # Events. Each returns what is to be done, in this order.

    def ready(self, now: float, candidate: Value | None, undisputed: Value | None = None) -> list[Effect]:
        """The round may close, as far as this member is concerned, and so it would propose. Call again for another.

        Args:
            undisputed: what to propose instead once the first attempt has failed, if another: free of opinions, such as
                who is silent, and of what others may not hold, such as the store at a frontier. A liar that is heard by
                one honest member at a time, never by whose turn it is next, would else have each proposal contradicted,
                for ever.

        Raises ValueError if they cannot follow: the caller's bug.
        """
        for value in (candidate, undisputed):
            if value is not None:
                if not self._follows(value):
                    raise ValueError("a candidate that cannot follow the log")
                self._heard.values.find(self._heard.values.know(value).hash, is_sound=True)
        if candidate is not None:
            self._candidate, self._undisputed = candidate, undisputed or candidate
        self._is_ready = True
        return self.look(now)

    def judged(self, now: float, hash: bytes, is_sound: bool) -> list[Effect]:
        """The end of a Judge."""
        self._heard.values.judged(hash, is_sound=is_sound)
        return self.look(now)

    def heard(self, now: float, ballot: Ballot) -> list[Effect]:
        """A message of this round came, its own ones included."""
        if self.decided is not None or ballot.round != self.round:
            return []
        # Who told others something else than this member is found out by what they show.
        shown = (vote for vote in shown_by(ballot) if vote.voter != self._me)
        effects: list[Effect] = [accusation for vote in shown for accusation in self._heard.vote(vote)]
        match ballot:
            case Vote():
                effects += self._heard.vote(ballot)
            case Proposal():
                effects += self._heard.proposal(ballot, self.attempt)
            case Decided():
                effects += self._end(ballot) if self._heard.is_certified(ballot) else []
            case Tally():
                pass  # it is what it shows
        return [*effects, *self.look(now)]

    def look(self, now: float) -> list[Effect]:
        """Something changed, or time passed."""
        effects: list[Effect] = []
        rules = (self._decide, self._follow, self._propose, self._prevote, self._bind, self._give_up, self._time_out)
        while self.decided is None:
            found = next((done for rule in rules if (done := rule(now)) is not None), None)
            if found is None:
                break
            effects += found
        return [*self._heard.to_judge(self.attempt), *effects, *self._repeat(now)]

    # Rules. None: it does not apply.

    def _decide(self, now: float) -> list[Effect] | None:
        """A quorum has precommitted one value in one attempt."""
        found = self._heard.precommitted()
        if found is None:
            return None
        attempt, choice, precommits = found
        tally = Tally(self.round, attempt, Step.PRECOMMIT, choice, precommits)
        decided = Decided(self.round, attempt, self._heard.values[choice].data, precommits)
        return [*self._pass_on(tally), *self._end(decided)]

    def _follow(self, now: float) -> list[Effect] | None:
        """At least one honest member has come to a later attempt."""
        for attempt in sorted(self.votes.reached(), reverse=True):
            is_ahead = self.attempt < attempt <= FOLLOWED_MAX
            if is_ahead and self.electorate.has_honest(self.votes.at_least(attempt)):
                return self._begin(now, attempt, "others have come so far")
        return None

    def _propose(self, now: float) -> list[Effect] | None:
        """It is this member's turn, and it has something to name: what a quorum has prevoted before, if it knows."""
        is_turn = self._is_voter and self._me == self.electorate.proposer(self.round, self.attempt)
        if not is_turn or self.attempt in self._heard.proposals or self._step is not None:
            return None
        own, polka = self._undisputed if self.attempt else self._candidate, self._heard.polka
        value = own if polka is None else value_of(polka.value)
        if value is None or (polka is not None and polka.attempt >= self.attempt):
            return None  # nothing to name, or the others are ahead
        proposal = propose(self._signer, self._swarm, self.round, self.attempt, value, polka)
        self._heard.own(proposal)
        return [self._save(), Send(proposal)]

    def _prevote(self, now: float) -> list[Effect] | None:
        """The proposal is here, and judged."""
        proposal = self._heard.proposals.get(self.attempt)
        if proposal is None or self._step is not None:
            return None
        value = value_of(proposal.value)
        verdict = self._heard.values.verdict(value.hash)
        if verdict is None:
            return None
        is_free = self._is_free_for(value, proposal.polka_attempt)
        return self._cast(Step.PREVOTE, value.hash if verdict and is_free else b"")

    def _is_free_for(self, value: Value, polka_attempt: int | None) -> bool:
        """Whether what binds this member lets it prevote this."""
        bound = self._bound
        if bound is None or bound.value == value.data:
            return True
        return polka_attempt is not None and bound.attempt <= polka_attempt

    def _bind(self, now: float) -> list[Effect] | None:
        """A quorum has prevoted one value in this attempt."""
        known = self._heard.polka
        is_known = known is not None and known.attempt >= self.attempt
        if self._step is None or (self._step is Step.PRECOMMIT and is_known):
            return None
        for choice, prevotes in self._heard.quorums(self.attempt, Step.PREVOTE):
            polka = Polka(self.attempt, self._heard.values[choice].data, prevotes)
            self._heard.learn(polka)
            if self._step is Step.PREVOTE and self._heard.values.verdict(choice):
                self._bound = polka
                tally = Tally(self.round, self.attempt, Step.PREVOTE, choice, prevotes)
                return [*self._pass_on(tally), *self._cast(Step.PRECOMMIT, choice)]
        return None  # what this member does not hold, it does not promise; it may come to hold it in time

    def _give_up(self, now: float) -> list[Effect] | None:
        """A quorum has voted for nothing, in either step."""
        if self._step is Step.PREVOTE and self._heard.is_for_nothing(self.attempt, Step.PREVOTE):
            return self._cast(Step.PRECOMMIT, b"")
        if self._heard.is_for_nothing(self.attempt, Step.PRECOMMIT) and self.attempt < len(self.electorate.seats):
            return self._begin(now, self.attempt + 1, "a quorum found nothing to agree on")
        return None  # all have had their turn: there is no hurry any more (`_time_out`)

    def _time_out(self, now: float) -> list[Effect] | None:
        """Patience with a step begins when a quorum has taken it: votes that come later are late, or never come."""
        spans = self._timeouts.at(self.attempt)
        # A first attempt begins when this member finds that the round may close; until then it is not waited for.
        if self._step is None and (self._is_ready or self.attempt > 0):
            self._step_until = min(self._step_until, now + (spans.propose_s if self._may_come() else 0.0))
        if (
            self._step is Step.PREVOTE
            and self._step_until == math.inf
            and self._heard.has_quorum(self.attempt, Step.PREVOTE)
        ):
            self._step_until = now + spans.vote_s
        if self._attempt_until == math.inf and self._heard.has_quorum(self.attempt, Step.PRECOMMIT):
            self._attempt_until = now + spans.vote_s
        if now >= self._step_until:
            return self._cast(Step.PREVOTE if self._step is None else Step.PRECOMMIT, b"")
        if now >= self._attempt_until:
            return self._begin(now, self.attempt + 1, "votes are missing, or they differ")
        return None

    def _may_come(self) -> bool:
        """Whether the proposal is here, or its author can still say it: to pass over one who is back in a moment costs
        an attempt, to wait for one who is gone the whole patience.
        """
        return self.attempt in self._heard.proposals or self.hears(self.electorate.proposer(self.round, self.attempt))

    # What it does.

    def _begin(self, now: float, attempt: int, reason: str) -> list[Effect]:
        self.attempt = attempt
        self._step = None
        self._step_until = self._attempt_until = math.inf
        self._repeating.hurry(now, self._timeouts.repeat_s)
        return [Began(attempt, self.electorate.proposer(self.round, attempt), reason)]

    def _cast(self, step: Step, choice: bytes) -> list[Effect]:
        self._step = step
        self._step_until = math.inf
        if not self._is_voter:
            return []
        vote = cast(self._signer, self._swarm, self.round, self.attempt, step, choice)
        self._heard.vote(vote)
        return [self._save(), *self._say(vote)]

    def _say(self, vote: Vote) -> list[Effect]:
        """To all, or to the proposer that passes it on."""
        proposer = self.electorate.proposer(self.round, self.attempt)
        is_passed_on = self._are_many and self.attempt == 0 and vote.choice and self.hears(proposer)
        if self._is_loud or not is_passed_on:
            return [Send(self._shown(vote))]
        return [] if proposer == self._me else [Send(vote, proposer)]

    def _pass_on(self, tally: Tally) -> list[Effect]:
        """What only its proposer has heard of a first attempt."""
        is_proposer = self._me == self.electorate.proposer(self.round, tally.attempt)
        return [Send(tally)] if self._are_many and is_proposer and tally.attempt == 0 else []

    def _shown(self, vote: Vote) -> Vote:
        """As the others are to see it: if it is for nothing, with what binds this member."""
        if vote.choice or self._heard.polka is None:
            return vote
        return Vote(vote.voter, vote.round, vote.attempt, vote.step, b"", vote.signature, self._heard.polka)

    def _save(self) -> Save:
        self._repeating.said()
        proposal = self._heard.proposals.get(self.attempt)
        own = proposal if proposal is not None and proposal.proposer == self._me else None
        return Save(Journal(self.round, self.attempt, own, tuple(self._own()), self._bound))

    def _own(self) -> list[Vote]:
        """This member's votes that others may still need. The attempt before: who has missed a precommit, without which
        there is no quorum, can neither go on from there nor follow so few as a third.
        """
        return list(self.votes.of(self._me, self.attempt - 1))

    def _needed(self) -> set[bytes]:
        """Values that this member is bound by, or would propose."""
        bound = None if self._bound is None else value_of(self._bound.value)
        return {each.hash for each in (bound, self._candidate, self._undisputed) if each is not None}

    def _end(self, decided: Decided) -> list[Effect]:
        self.decided = decided
        return [decided]

    def _repeat(self, now: float) -> list[Effect]:
        if self.decided is not None or not self._repeating.is_due(now, self._timeouts.repeat_s):
            return []
        self._is_loud = True
        return [Send(ballot) for ballot in self.said()]

    def _recall(self, journal: Journal) -> None:
        self.attempt = self._journal_attempt = journal.attempt
        self._is_ready = True
        if journal.proposal is not None:
            self._heard.own(journal.proposal)
        for vote in journal.votes:
            self.votes.put(vote)
        self._step = max((vote.step for vote in journal.votes if vote.attempt == self.attempt), default=None)
        if journal.bound_by is not None:
            self._bound = self._heard.polka = journal.bound_by
            self._heard.values.know(value_of(journal.bound_by.value))
        self._repeating.at = 0.0
