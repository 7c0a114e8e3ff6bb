"""Members that lie while the others agree: about what was proposed, what binds them, who is there, how far all are.

| attack | who |
|---|---|
| two proposals in one attempt, votes for both, some to these and some to those | `equivocates`, `TwoFaced` |
| selective sending: what it says reaches whom it likes | `selects`, `TwoFaced`, `Besieger` |
| quorums that one member alone sees, and denied before the rest | `Accomplice` |
| proposals that nobody can have, or only one | `withholds` |
| a payload that is served to the proposer alone | `favours` |
| gamed time-outs: in time for some, too late for the rest | `lingers` |
| votes in attempts to come | `hurries` |
| replays of all that was ever said | `replays` |
| joins, leaves and proofs of guilt that are forged | `forges` |
| votes and certificates in others' names, its own signature counted often | `impersonates` |
| silence, when it is its turn, too | `is_silent` |
| a key in two places while the others are parted or suspended | `Besieger` |
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec import structs

from shoal.training.agreed import Position, Share, next_record, record_value
from shoal.training.members import Change, Expel, Join, Leave
from shoal.training.votes import Decided, Proposal, Signed, Step, Value, Vote, cast, propose, shortened, value_of
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed

from .agreement_member import SWARM, TIMEOUTS, Disk, ForFace, Held, Key, Member, Sent, Word, contribution, share_of
from .agreement_world import World

ACT_S: Final = 0.7
HASTE_S: Final = 0.1  # at most so often, however much it hears
HEARD_MAX: Final = 300


class Face:
    """The world as one face of a two-faced member sees it: it reaches its own side only, and nobody counts on it."""

    def __init__(self, world: World, number: int, side: frozenset[PeerId]) -> None:
        self._world, self._number, self.side = world, number, side

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world, name)

    def send(self, sender: PeerId, receiver: PeerId, sent: Sent) -> None:
        if receiver in self._world.liars:  # for that one's same face alone
            sent = ForFace(self._number, sent)
        if receiver in self.side:
            self._world.send(sender, receiver, sent)

    def agreed(self, peer: PeerId, keep: object) -> None:
        """What a liar decides binds nobody."""

    def tell(self, member: PeerId, text: str) -> None:
        """Nor is it of interest."""


def hear(faces: Sequence[Member], sender: PeerId, sent: Sent) -> None:
    """What liars tell one another is for one face, what others tell for those who face them."""
    match sent:
        case ForFace(number, inner):
            if number < len(faces):
                faces[number].hear(sender, inner)
        case _:
            for face in faces:
                if sender in face.world.side:  # type: ignore[attr-defined]
                    face.hear(sender, sent)


class TwoFaced:
    """Two honest members with one key, each before half of the others, who swap halves now and then."""

    def __init__(self, world: World, key: Key) -> None:
        self._world, self.peer_id = world, key.peer_id
        self._sides: list[frozenset[PeerId]] = []
        self._faces: list[Member] = []
        for number in range(2):
            face = Face(world, number, frozenset())
            member = Member(face, key)  # type: ignore[arg-type]  # it is all that a member needs of a world
            self._faces.append(member)
            world.at(0.0, member.start)
        self._swap()

    def _swap(self) -> None:
        world = self._world
        # Liars are on both sides: with each other they share everything.
        honest = sorted(world.keys.keys() - world.liars)
        side = {peer for peer in honest if world.draw.random() < 0.5}
        for face, own in zip(self._faces, (side, set(honest) - side), strict=True):
            face.world.side = frozenset(own | world.liars)  # type: ignore[attr-defined]
        world.at(world.now + world.draw.uniform(5.0, 30.0), self._swap)

    def hear(self, sender: PeerId, sent: Sent) -> None:
        hear(self._faces, sender, sent)

    def gives(self, peer: PeerId) -> bool:
        return any(face.gives(peer) for face in self._faces if peer in face.world.side)  # type: ignore[attr-defined]


class Besieger:
    """Honest until the others are parted, by themselves or by it; then a member on each side, with one key."""

    def __init__(self, world: World, key: Key) -> None:
        self._world, self._key, self.peer_id = world, key, key.peer_id
        self._faces: list[Member] = []
        self._add_face(frozenset(world.keys))
        world.at(world.now + 0.1, self._watch)

    def _add_face(self, side: frozenset[PeerId]) -> Member:
        face = Face(self._world, len(self._faces), side)
        member = Member(face, self._key)  # type: ignore[arg-type]  # as in TwoFaced
        self._world.at(self._world.now, member.start)
        self._faces.append(member)
        return member

    def _watch(self) -> None:
        world = self._world
        if not world.is_parted:
            world.at(world.now + 0.1, self._watch)
            return
        (first,) = self._faces
        ones = frozenset(peer for peer in world.keys if world.side_of(peer)) - world.liars
        first.world.side = frozenset(world.keys) - ones  # type: ignore[attr-defined]
        second = self._add_face(ones | world.liars)
        second.disk = Disk(list(first.disk.log), first.disk.journal)

    def hear(self, sender: PeerId, sent: Sent) -> None:
        hear(self._faces, sender, sent)

    def gives(self, peer: PeerId) -> bool:
        return any(face.gives(peer) for face in self._faces)


class Liar:
    """Hears all, keeps no rule, and acts every now and then."""

    def __init__(self, world: World, key: Key) -> None:
        self.world, self.key, self.peer_id = world, key, key.peer_id
        self.heard: list[Sent] = []
        self.values: dict[int, list[Value]] = {}
        self.act: Callable[[Liar], None] = is_silent if isinstance(self, Accomplice) else world.draw.choice(ACTS)
        self.round = 1
        self.attempt = 0
        self.acts_at = 0.0
        self.favoured: PeerId | None = None  # who alone is given what it has
        world.at(world.draw.uniform(0.0, ACT_S), self._turn)

    def hear(self, sender: PeerId, sent: Sent) -> None:
        if isinstance(sent, ForFace):
            return
        if len(self.heard) < HEARD_MAX:
            self.heard.append(sent)
        else:
            self.heard[self.world.draw.randrange(HEARD_MAX)] = sent
        if isinstance(sent, Vote | Proposal):
            if (sent.round, sent.attempt) > (self.round, self.attempt):
                self.round, self.attempt = sent.round, sent.attempt
            if isinstance(sent, Proposal):
                self.values.setdefault(sent.round, []).append(value_of(sent.value))
            if sender not in self.world.liars and self.world.now > self.acts_at:
                self.acts_at = self.world.now + HASTE_S
                self.act(self)

    def gives(self, peer: PeerId) -> bool:
        return self.world.draw.random() < 0.5 if self.favoured is None else peer == self.favoured

    def others(self) -> list[PeerId]:
        return [peer for peer in sorted(self.world.endpoints) if peer != self.peer_id]

    def tell(self, peers: Sequence[PeerId], sent: Sent) -> None:
        for peer in peers:
            self.world.send(self.peer_id, peer, sent)

    def halves(self) -> tuple[list[PeerId], list[PeerId]]:
        others = self.others()
        self.world.draw.shuffle(others)
        at = self.world.draw.randint(0, len(others))
        return others[:at], others[at:]

    def record(self, taken: Sequence[Share] = (), changes: tuple[Change, ...] = ()) -> Value | None:
        """One that may follow what the honest agree on; the position is anybody's who is there."""
        position = self.position()
        made = None if position is None else next_record(position, b"", taken, changes)
        return None if made is None or isinstance(made, Malformed) else record_value(made)

    def position(self) -> Position | None:
        """Where the honest stand who are in this round."""
        cores = (member.core for member in self.world.members.values() if member.core is not None)
        return next((core.position for core in cores if core.round == self.round), None)

    def _turn(self) -> None:
        self.act(self)
        self.world.at(self.world.now + ACT_S, self._turn)


def equivocates(liar: Liar) -> None:
    """Proposes one thing to some and another to others, and votes for both."""
    draw = liar.world.draw
    some, rest = liar.halves()
    shares = [share_of(peer, liar.round) for peer in sorted(liar.world.keys)]
    both = [liar.record(draw.sample(shares, draw.randint(0, len(shares)))) for _ in range(2)]
    both += [draw.choice(known) for known in [liar.values.get(liar.round, [])] if known]
    for peers, value in zip((some, rest), draw.sample(both, 2), strict=True):
        if value is not None:
            liar.tell(peers, propose(liar.key, SWARM, liar.round, liar.attempt, value, None))
            for step in Step:
                liar.tell(peers, cast(liar.key, SWARM, liar.round, liar.attempt, step, value.hash))


def selects(liar: Liar) -> None:
    """Votes for what is proposed, but so that few hear of it: one is bound, the others are not."""
    draw = liar.world.draw
    known = liar.values.get(liar.round, [])
    choices = [b"", *(value.hash for value in known[-3:])]
    for step in Step:
        attempt = max(0, liar.attempt - draw.randint(0, 1))
        for peer in liar.others():
            if draw.random() < 0.4:
                liar.tell([peer], cast(liar.key, SWARM, liar.round, attempt, step, draw.choice(choices)))


def withholds(liar: Liar) -> None:
    """Proposes what nobody can have, or only one."""
    made_up = Share(liar.peer_id, liar.round, liar.round - 1, contribution(PeerId("nobody"), liar.round), 1)
    own = share_of(liar.peer_id, liar.round)
    value = liar.record([liar.world.draw.choice([made_up, own])])
    if value is not None:
        some, _ = liar.halves()
        liar.tell(some[:1], Held(liar.round, frozenset([own.contribution])))
        liar.tell(liar.others(), propose(liar.key, SWARM, liar.round, liar.attempt, value, None))


def favours(liar: Liar) -> None:
    """Gives its contribution to whose turn it is, and to nobody else."""
    position = liar.position()
    if position is not None:
        liar.favoured = position.electorate.proposer(liar.round, liar.attempt)
        liar.tell([liar.favoured], Held(liar.round, frozenset([contribution(liar.peer_id, liar.round)])))


def lingers(liar: Liar) -> None:
    """Proposes and votes when the others' patience is about to end."""
    world, spans = liar.world, TIMEOUTS.at(liar.attempt)
    known = liar.values.get(liar.round, [])
    value = known[-1] if known else liar.record([share_of(liar.peer_id, liar.round)])
    if value is None:
        return
    waits_s = {None: spans.propose_s, Step.PREVOTE: spans.vote_s, Step.PRECOMMIT: spans.vote_s}
    for step, wait_s in waits_s.items():
        said: Sent = (
            propose(liar.key, SWARM, liar.round, liar.attempt, value, None)
            if step is None
            else cast(liar.key, SWARM, liar.round, liar.attempt, step, value.hash)
        )
        for peers in liar.halves():
            world.at(world.now + wait_s * world.draw.uniform(0.7, 1.1), liar.tell, peers, said)


def replays(liar: Liar) -> None:
    """All that was ever said, again, to anybody."""
    for sent in liar.world.draw.sample(liar.heard, min(5, len(liar.heard))):
        liar.tell(liar.world.draw.sample(liar.others(), 2), sent)


def hurries(liar: Liar) -> None:
    """Votes in attempts that nobody has come to."""
    for ahead in (1, 2, 1000, 2**30):
        for step in Step:
            liar.tell(liar.others(), cast(liar.key, SWARM, liar.round, liar.attempt + ahead, step, b""))


def forges(liar: Liar) -> None:
    """Changes that nobody wants: itself twice more, and others gone."""
    victim = liar.world.draw.choice(liar.others())
    votes = [sent for sent in liar.heard if isinstance(sent, Vote) and sent.voter == victim]
    forged: list[Change] = [Join("puppet".ljust(40, "-"), 1, b"invited"), Leave(victim, bytes(64))]
    if votes:
        once = shortened(votes[0])
        filled_in = structs.replace(once, polka_attempt=0)  # what a vote's signature does not cover
        forged += [Expel(victim, once, shortened(votes[-1])), Expel(victim, once, filled_in)]
    for change in forged:
        liar.tell(liar.others(), Word(change))
        value = liar.record((), (change,))
        if value is not None:
            liar.tell(liar.others(), propose(liar.key, SWARM, liar.round, liar.attempt, value, None))


def impersonates(liar: Liar) -> None:
    """Says what others never said."""
    value = liar.record([share_of(liar.peer_id, liar.round)])
    if value is None:
        return
    others, own = liar.others(), cast(liar.key, SWARM, liar.round, liar.attempt, Step.PRECOMMIT, value.hash)
    for peer in others:
        liar.tell(others, Vote(peer, liar.round, liar.attempt, Step.PRECOMMIT, value.hash, own.signature))
    for signers in (others, [liar.peer_id] * len(liar.world.keys), [liar.peer_id]):
        precommits = tuple(Signed(signer, own.signature) for signer in signers)
        liar.tell(others, Decided(liar.round, liar.attempt, value.data, precommits))


def is_silent(liar: Liar) -> None:
    """Takes its turns as proposer, and says nothing."""


ACTS: Final[Sequence[Callable[[Liar], None]]] = (
    equivocates,
    selects,
    withholds,
    favours,
    lingers,
    hurries,
    replays,
    forges,
    impersonates,
    is_silent,
)


class Accomplice(Liar):
    """Makes the quorum of each `Hunt`, and tells those who are not to see it that it voted for nothing. In attempts
    without one it votes for whatever is proposed, most of all after a hunt: for another record.
    """

    def __init__(self, world: World, key: Key) -> None:
        super().__init__(world, key)
        self._answered: dict[tuple[int, int, bytes], float] = {}

    def hear(self, sender: PeerId, sent: Sent) -> None:
        super().hear(sender, sent)
        if not isinstance(sent, Proposal) or self._is_answered(sent):
            return
        value, hunt = value_of(sent.value), self.world.hunt(sent.round, sent.attempt)
        for step in Step:
            for peer in self.others():
                is_to_see = hunt is None or peer == hunt.target or (step is Step.PREVOTE and peer in hunt.bound)
                vote = cast(self.key, SWARM, sent.round, sent.attempt, step, value.hash if is_to_see else b"")
                self.tell([peer], vote)

    def _is_answered(self, proposal: Proposal) -> bool:
        """Whether it has voted on this a moment ago: a hundred members repeat it to all who may not have heard."""
        now, key = self.world.now, (proposal.round, proposal.attempt, proposal.value)
        if now < self._answered.get(key, -ACT_S) + ACT_S:
            return True
        self._answered[key] = now
        return False

    def _turn(self) -> None:
        """As proposer it names something new."""
        self.world.at(self.world.now + ACT_S, self._turn)
        position = self.position()
        if position is None or position.electorate.proposer(self.round, self.attempt) != self.peer_id:
            return  # else nobody would look at it, and its votes for what other liars name so would expel it
        shares = [share_of(peer, self.round) for peer in sorted(self.world.members)]
        value = self.record(self.world.draw.sample(shares, self.world.draw.randint(1, len(shares))))
        if value is not None:
            proposal = propose(self.key, SWARM, self.round, self.attempt, value, None)
            self.tell(self.others(), proposal)


KINDS: Final = (TwoFaced, Accomplice, Liar)


def any_liar(world: World, key: Key) -> Any:
    """Where the weather hunts or besieges, those who make the most of it."""
    if world.mood.hunts:
        return Accomplice(world, key)
    if world.mood.is_siege:
        return Besieger(world, key)
    return world.draw.choice(KINDS)(world, key)
