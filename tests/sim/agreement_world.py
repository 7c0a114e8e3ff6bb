"""A simulated swarm that agrees: the cores that real members have, on a virtual clock, from one seed.

Between any two effects a member may be killed; what it had to save is on its disk, the rest is gone. Messages are lost,
doubled, late and out of order until `Plan.settles_at`, partitions come and go, clocks run at different speeds. After
that all arrives soon, and everybody runs.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from typing import Any, Final

from shoal.training.agreed import Position
from shoal.training.agreeing import Agreement, Keep
from shoal.training.members import Electorate, Expel, electorate_of
from shoal.training.spec import Quorum
from shoal.training.votes import ATTEMPTS_MAX, Proposal, Tally, Vote
from shoal.transport.port import PeerId

from .agreement_member import SWARM, TIMEOUTS, Key, Member, Sent, Violation
from .agreement_weather import MOODS, Hunt

SETTLED_S: Final = (0.005, 0.05)  # what a message takes in the end
PATIENCE_S: Final = 120.0


@dataclass(frozen=True)
class Plan:
    """What happens in a run."""

    seed: int
    count: int = 4
    quorum: Quorum = Quorum.MAJORITY
    liars: int = 0
    settles_at: float = 60.0
    leavers: int = 0
    joiners: int = 0
    rounds_after: int = 2  # that must close once all has settled


class World:
    """See the module's text. `agreement_type` is replaced by tests that break a rule on purpose."""

    def __init__(
        self,
        plan: Plan,
        make_agreement: Callable[..., Agreement] = Agreement,
        make_electorate: Callable[[Quorum, Mapping[PeerId, int]], Electorate] = electorate_of,
        forgets: bool = False,
        make_liar: "Callable[[World, Key], Any] | None" = None,
    ) -> None:
        self.plan = plan
        self.now = 0.0
        self.draw = random.Random(plan.seed)
        self.mood_name = sorted(MOODS)[plan.seed // 4 % len(MOODS)]  # counts go by fours
        self.mood = MOODS[self.mood_name]
        self.timeouts = replace(TIMEOUTS, passed_on_from=1) if plan.seed // 24 % 2 else TIMEOUTS
        self.make_agreement = make_agreement
        self.forgets = forgets  # a member's disk loses what it has signed
        self.transcript: list[str] = []
        self.decided: dict[int, bytes] = {}
        self.attempts: dict[int, int] = {}  # the highest that anybody honest reached, by round
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0
        self._sides: dict[PeerId, int] = {}
        self._hunts: dict[tuple[int, int], Hunt | None] = {}
        self._alone_until: dict[PeerId, float] = {}
        names = [f"m{number}".ljust(40, "-") for number in range(plan.count + plan.joiners)]
        self.keys = {PeerId(name): Key(name) for name in names}
        founders = [PeerId(name) for name in names[: plan.count]]
        self.invited = frozenset(map(PeerId, names[plan.count :]))
        self.origin = Position(0, SWARM, make_electorate(plan.quorum, dict.fromkeys(founders, 1)))
        self.liars = frozenset(self.draw.sample(founders, plan.liars)) if make_liar else frozenset[PeerId]()
        self.members = {peer: Member(self, self.keys[peer]) for peer in self.keys if peer not in self.liars}
        self.endpoints: dict[PeerId, Any] = dict(self.members)
        for peer in sorted(self.liars):
            assert make_liar is not None
            self.endpoints[peer] = make_liar(self, self.keys[peer])
        for peer, member in self.members.items():
            if peer not in self.invited:
                member.start()
        self._schedule()

    @property
    def is_settled(self) -> bool:
        return self.now >= self.plan.settles_at

    # Time and the network.

    def at(self, time: float, action: Callable[..., None], *arguments: Any) -> None:
        self._number += 1
        heappush(self._queue, (time, self._number, action, arguments))

    def run(self, until: float) -> None:
        queue = self._queue
        while queue and queue[0][0] <= until:
            self.now, _, action, arguments = heappop(queue)
            action(*arguments)
        self.now = until

    def send(self, sender: PeerId, receiver: PeerId, sent: Sent) -> None:
        draw, mood = self.draw, self.mood
        if isinstance(sent, Vote | Proposal | Tally) and sent.attempt > ATTEMPTS_MAX:
            return  # nobody could read it
        if self.is_settled:
            self.at(self.now + draw.uniform(*SETTLED_S), self._arrive, sender, receiver, sent)
            return
        if draw.random() < mood.loss or self._is_spited(sender, receiver, sent):
            return
        for _ in range(1 + (draw.random() < mood.doubling)):
            delay = SETTLED_S[0] + mood.delay_s * draw.choice((0.01, 0.05, 0.2, 1.0, 4.0)) * draw.random()
            self.at(self.now + delay, self._arrive, sender, receiver, sent)

    def reach(self, one: PeerId, other: PeerId) -> bool:
        """Whether these two hear each other at present. Liars are on all sides."""
        is_alone = max(self._alone_until.get(one, 0.0), self._alone_until.get(other, 0.0)) > self.now
        has_liar = one in self.liars or other in self.liars
        return not is_alone and (has_liar or self._sides.get(one, 0) == self._sides.get(other, 0))

    def is_connected(self, one: PeerId, other: PeerId) -> bool:
        """Whether they reach each other and both run."""
        member = self.members.get(other)
        return self.reach(one, other) and (member is None or member.core is not None)

    @property
    def is_parted(self) -> bool:
        return bool(self._sides)

    def side_of(self, peer: PeerId) -> int:
        return self._sides.get(peer, 0)

    def _is_spited(self, sender: PeerId, receiver: PeerId, sent: Sent) -> bool:
        """Whether the weather has it in for this message, however often it is repeated."""
        if not isinstance(sent, Vote | Proposal | Tally) or sender in self.liars:
            return False
        hunt = self.hunt(sent.round, sent.attempt)
        return hunt is not None and hunt.loses(sender, receiver, None if isinstance(sent, Proposal) else sent.step)

    def hunt(self, round: int, attempt: int) -> Hunt | None:
        place = round, attempt
        if place not in self._hunts:
            self._hunts[place] = self._new_hunt() if self.draw.random() < self.mood.hunts else None
        return self._hunts[place]

    def _new_hunt(self) -> Hunt:
        voters = sorted(self.origin.electorate.by_member)
        honest = [peer for peer in voters if peer not in self.liars]
        is_third = self.plan.quorum is Quorum.TWO_THIRDS
        enough = 2 * len(voters) // 3 + 1 if is_third else len(voters) // 2 + 1
        # Liars are of every quorum: they vote with it, and say the opposite to the rest.
        bound = [*self.liars, *self.draw.sample(honest, max(1, enough - len(self.liars)))]
        rest = [peer for peer in honest if peer not in bound]
        targets = [peer for peer in bound if peer not in self.liars]
        target = self.draw.choice(targets)
        told = [peer for peer in targets if peer != target]
        return Hunt(
            target,
            frozenset(bound),
            self.draw.choice(rest) if rest else None,
            self.draw.choice(told) if told else None,
        )

    def _arrive(self, sender: PeerId, receiver: PeerId, sent: Sent) -> None:
        if self.reach(sender, receiver):
            self.endpoints[receiver].hear(sender, sent)

    def verify(self, peer: PeerId, message: bytes, signature: bytes) -> bool:
        key = self.keys.get(peer)
        return key is not None and key.sign(message) == signature

    def admits(self, member: PeerId, admission: bytes) -> int | None:
        return 1 if member in self.invited and admission == b"invited" else None

    def tell(self, member: PeerId, text: str) -> None:
        self.transcript.append(f"{self.now:8.3f} {member} {text}".replace("-", ""))

    # What happens.

    def _schedule(self) -> None:
        plan, draw = self.plan, self.draw
        peers = sorted(self.keys)
        for number in range(self.mood.partitions):
            span_s = plan.settles_at / self.mood.partitions
            sides = dict.fromkeys(draw.sample(peers, len(peers) // 2), 1)  # halves, as a rule
            self.at((number + draw.uniform(0.0, 0.4)) * span_s, self._part, sides)
            self.at((number + draw.uniform(0.6, 1.0)) * span_s, self._part, {})
        if self.mood.is_siege:
            self.at(0.0, self._besiege)
        for number in range(self.mood.exiles):
            begins_at = (number + draw.random()) * plan.settles_at / self.mood.exiles
            self.at(begins_at, self._banish, draw.choice(sorted(self.members)), draw.uniform(10.0, 40.0))
        self.at(plan.settles_at, self._settle)
        honest = sorted(self.members.keys() - self.invited)
        for peer in draw.sample(honest, min(plan.leavers, len(honest))):
            self.at(draw.uniform(5.0, plan.settles_at), self.members[peer].leave)
        for peer in sorted(self.invited):
            self.at(draw.uniform(5.0, plan.settles_at), self.members[peer].start)

    def _part(self, sides: dict[PeerId, int]) -> None:
        self._sides = {} if self.is_settled else sides
        if not self._sides:
            for peer in sorted(self.members):
                self.connect(peer)

    def _besiege(self) -> None:
        """Who is cut off is suspended; if that made quorums smaller, two sides with the liars between them would do."""
        honest = self.draw.sample(sorted(self.members), len(self.members))
        left = 2
        span_s = self.plan.settles_at / (len(honest) - left + 1)
        for number, peer in enumerate(honest[left:]):
            self.at(self.now + number * span_s, self._banish, peer, self.plan.settles_at)
        self.at(self.plan.settles_at - span_s, self._part, {honest[0]: 0, honest[1]: 1})

    def _banish(self, peer: PeerId, span_s: float) -> None:
        until = self._alone_until[peer] = min(self.plan.settles_at, self.now + span_s)
        self.at(until, self.connect, peer)

    def connect(self, peer: PeerId) -> None:
        """It hears what the others have to say, and they what it has."""
        for other in sorted(self.members):
            if other != peer and self.reach(peer, other):
                self.members[other].meet(peer)
                if peer in self.members:
                    self.members[peer].meet(other)

    def _settle(self) -> None:
        self._part({})
        for member in self.members.values():
            member.start()

    # What must hold.

    def agreed(self, peer: PeerId, keep: Keep) -> None:
        """An honest member has a record."""
        hash = keep.position.record
        if self.decided.setdefault(keep.record.round, hash) != hash:
            raise Violation(f"round {keep.record.round} ended twice, {peer} has {hash.hex()[:8]}")
        hunt = self._hunts.get((keep.record.round, keep.decided.attempt))
        if hunt is not None and hunt.target == peer:
            self._banish(peer, self.draw.uniform(5.0, 20.0))
            if self.mood.crash > 0.005:  # and who is bound had better not forget it
                for other in sorted(hunt.bound & self.members.keys() - {peer}):
                    self.at(self.now, self.members[other].crash)
        for change in keep.record.changes:
            if isinstance(change, Expel) and change.member in self.members and not self.forgets:
                raise Violation(f"{change.member} is honest and was expelled")

    def check(self) -> float:
        """Run it all. Returns how long the slowest of the last rounds took everybody, its training and all, in timeouts
        of a first attempt. Raises Violation.
        """
        plan = self.plan
        self.run(plan.settles_at)
        first = max(member.round for member in self.members.values())
        spans_s = [self._close(round) for round in range(first, first + plan.rounds_after)]
        return max(spans_s) / (TIMEOUTS.propose_s + 2 * TIMEOUTS.vote_s)

    def _close(self, round: int) -> float:
        """How long it takes from now on until all who are to follow the log have the record of this round."""
        began_at = self.now
        while not all(member.round > round for member in self.staying()):
            if self.now > began_at + PATIENCE_S:
                rounds = {member.peer_id: member.round for member in self.members.values()}
                raise Violation(f"round {round} has not closed within {PATIENCE_S:g} s of calm: {rounds}")
            self.run(self.now + 0.05)
        return self.now - began_at

    def staying(self) -> list["Member"]:
        """Who is to follow the log to its end."""
        return [member for member in self.members.values() if member.stays]
