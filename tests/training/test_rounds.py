"""The round core alone: scenarios that read as transcripts, and members driven against one another in random orders."""

import random
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.training.agreement import LowestPeerCloses
from shoal.training.effects import (
    AnnounceHeld,
    ApplyRecord,
    AskRecords,
    CheckPayload,
    Collect,
    Effect,
    FetchPayload,
    Observe,
    ProposeRecord,
    Resync,
    Train,
)
from shoal.training.events import Problem, Waiting
from shoal.training.records import (
    Contribution,
    Head,
    Offered,
    Presence,
    Present,
    Proposed,
    Record,
    Standing,
    Taken,
    record_hash,
    seal_contribution,
    seal_proposal,
)
from shoal.training.roster import Roster
from shoal.training.rounds import EVIDENCE_MAX, Phase, Rounds
from shoal.training.spec import Spec, spec_from, swarm_id
from shoal.transport.blobs import BlobRef
from shoal.transport.identity import Identity
from shoal.transport.port import PeerId

PEOPLE = sorted((Identity.from_seed(bytes([n]) * 32) for n in range(6)), key=lambda identity: identity.peer_id)
ANN, BEN, CAT, DAN = PEOPLE[:4]
DIGEST = bytes(32)


def make_spec(**values: Any) -> Spec:
    spec = spec_from({"round_s": 20, "grace_s": 5, "silence_s": 2, "samples_max": 100} | values, ANN.peer_id, bytes(16))
    assert isinstance(spec, Spec), spec
    return spec


SPEC = make_spec()
SWARM = swarm_id(SPEC)
START = Head(0, SWARM, DIGEST)


@dataclass
class Member:
    """A core with its roster."""

    who: Identity
    spec: Spec = SPEC
    standing: Standing = Standing.TRAINER
    roster: Roster = field(init=False)
    rounds: Rounds = field(init=False)

    def __post_init__(self) -> None:
        self.roster = Roster(self.who.peer_id, self.spec.members_max)
        self.rounds = Rounds(
            self.spec,
            self.who.peer_id,
            self.roster,
            lambda: LowestPeerCloses(self.who.peer_id, self.spec.members_min, self.spec.silence_s),
            self.standing,
            START,
        )

    def meet(self, *others: Identity, head: Head = START, standing: Standing = Standing.TRAINER) -> None:
        for other in others:
            assert self.roster.greet(Present(other.peer_id, Presence(1, standing, ())), head)


def contribution(
    who: Identity, round: int = 1, base: Head = START, samples: int = 1, payload: bytes | BlobRef = b"x"
) -> Offered:
    return seal_contribution(who, SWARM, round, Contribution(base.record, base.digest, samples, payload))


def proposal(who: Identity, *offers: Offered, base: Head = START) -> Proposed:
    taken = tuple(sorted((Taken(each.member, each.hash) for each in offers), key=lambda row: row.member))
    return seal_proposal(who, SWARM, Record(base.record, base.round + 1, base.digest, taken))


def done(result: list[Effect] | str) -> list[Effect]:
    assert not isinstance(result, str), result
    return result


def hold(member: Member, now: float, offered: Offered) -> list[Effect]:
    """Hear and check."""
    assert CheckPayload(offered) in done(member.rounds.heard(now, offered))
    return member.rounds.checked(now, offered, None)


def of_kind(effects: list[Effect], kind: type) -> list[Any]:
    return [effect for effect in effects if isinstance(effect, kind)]


def events(effects: list[Effect]) -> list[object]:
    return [effect.event for effect in effects if isinstance(effect, Observe)]


def test_round_1_waits_for_members_start_and_then_asks_for_ones_own_part() -> None:
    ann = Member(ANN, make_spec(members_start=2))
    assert events(ann.rounds.look(0.0)) == [Waiting("1 of 2 members are connected")]
    assert ann.rounds.look(1.0) == []  # said once
    ann.meet(BEN)
    effects = ann.rounds.look(2.0)
    members = tuple(sorted((ANN.peer_id, BEN.peer_id)))
    assert of_kind(effects, Train) == [Train(1, members, 22.0)]
    assert of_kind(ann.rounds.look(3.0), Train) == []


def test_a_round_alone() -> None:
    ann = Member(ANN)
    ann.rounds.look(0.0)
    own = contribution(ANN)
    (propose,) = of_kind(done(ann.rounds.contributed(1.0, own)), ProposeRecord)
    proposed = seal_proposal(ANN, SWARM, propose.record)
    (apply,) = of_kind(done(ann.rounds.proposed(1.0, proposed)), ApplyRecord)
    assert apply == ApplyRecord(proposed, (own,))
    assert ann.rounds.phase is Phase.APPLYING
    effects = ann.rounds.applied(2.0, proposed, b"\x01" * 32)
    assert ann.rounds.head == Head(1, record_hash(propose.record), b"\x01" * 32)
    assert of_kind(effects, Train) == [Train(2, (ANN.peer_id,), 22.0)]


def test_the_lowest_member_proposes_when_all_are_held_and_the_others_wait_their_turn() -> None:
    ann, ben = Member(ANN), Member(BEN)
    ann.meet(BEN)
    ben.meet(ANN)
    for each in (ann, ben):
        each.rounds.look(0.0)
    a, b = contribution(ANN), contribution(BEN)
    assert of_kind(done(ann.rounds.contributed(1.0, a)), ProposeRecord) == []
    assert len(of_kind(hold(ann, 1.5, b), ProposeRecord)) == 1
    done(ben.rounds.contributed(1.0, b))
    assert of_kind(hold(ben, 1.5, a), ProposeRecord) == []
    assert ben.rounds.deadline(1.5) == 3.5
    assert len(of_kind(ben.rounds.look(3.5), ProposeRecord)) == 1


def test_a_proposal_with_unknown_contributions_is_collected_fetched_checked_and_applied() -> None:
    cat = Member(CAT)
    cat.meet(ANN, BEN)
    cat.rounds.look(0.0)
    a, b = contribution(ANN), contribution(BEN, payload=BlobRef(DIGEST, 5_000))
    proposed = proposal(ANN, a, b)
    effects = done(cat.rounds.proposed(1.0, proposed))
    assert of_kind(effects, Collect) == [Collect(proposed, tuple(row.contribution for row in proposed.record.taken))]
    effects = cat.rounds.collected(2.0, proposed, (a, b))
    assert CheckPayload(a) in effects
    assert FetchPayload(b) in effects
    cat.rounds.checked(2.0, a, None)
    assert cat.rounds.fetched(3.0, b) == [CheckPayload(b)]
    effects = cat.rounds.checked(3.0, b, None)
    assert AnnounceHeld() in effects
    assert [each.proposed for each in of_kind(effects, ApplyRecord)] == [proposed]


def test_a_proposal_that_cannot_be_completed_is_given_up_and_the_round_closes_otherwise() -> None:
    ann = Member(ANN)
    ann.meet(BEN, CAT)
    ann.rounds.look(0.0)
    nobodys = contribution(DAN)
    proposed = proposal(BEN, nobodys, contribution(BEN))
    done(ann.rounds.proposed(1.0, proposed))
    done(ann.rounds.contributed(2.0, contribution(ANN)))
    hold(ann, 2.0, contribution(BEN))
    assert of_kind(hold(ann, 2.0, contribution(CAT)), ProposeRecord) == []
    assert len(of_kind(ann.rounds.collected(3.0, proposed, ()), ProposeRecord)) == 1
    assert isinstance(ann.rounds.proposed(4.0, proposal(BEN, contribution(BEN))), str)  # it had its turn


def test_a_proposal_whose_payloads_never_come_expires() -> None:
    ann = Member(ANN)
    ann.meet(BEN)
    ann.rounds.look(0.0)
    stuck = contribution(BEN, payload=BlobRef(DIGEST, 5_000))
    done(ann.rounds.heard(1.0, stuck))
    done(ann.rounds.proposed(1.0, proposal(BEN, stuck)))
    assert ann.rounds.deadline(1.0) == 8.0  # grace and silence
    assert [type(event) for event in events(ann.rounds.look(8.0))] == [Problem]
    done(ann.rounds.contributed(9.0, contribution(ANN)))
    (propose,) = of_kind(ann.rounds.look(25.0), ProposeRecord)
    assert [row.member for row in propose.record.taken] == [ANN.peer_id]


def test_nothing_wakes_a_member_that_is_applying_a_record() -> None:
    ann = Member(ANN)
    ann.meet(BEN)
    ann.rounds.look(0.0)
    own = contribution(ANN)
    done(ann.rounds.contributed(1.0, own))
    done(ann.rounds.proposed(1.0, proposal(BEN, contribution(BEN))))  # waits for what nobody has
    assert len(of_kind(done(ann.rounds.caught_up(1.0, proposal(CAT, own))), ApplyRecord)) == 1
    assert ann.rounds.look(100.0) == []
    assert ann.rounds.deadline(100.0) == float("inf")  # a time that has passed would keep the loop busy


def test_of_two_proposals_the_one_that_is_complete_first_is_applied() -> None:
    offers = [contribution(who) for who in (ANN, BEN, CAT)]
    one, two = proposal(ANN, *offers), proposal(BEN, *offers[:2])
    for order in ((one, two), (two, one)):
        cat = Member(CAT)
        cat.meet(ANN, BEN)
        cat.rounds.look(0.0)
        for proposed in order:
            done(cat.rounds.proposed(1.0, proposed))
        effects: list[Effect] = []
        for proposed in order:
            effects += cat.rounds.collected(1.0, proposed, offers)
        for offered in offers:
            effects += cat.rounds.checked(1.0, offered, None)
        # Checked in the order of `offers`, so the smaller set is complete first, whichever proposal came first.
        assert [each.proposed for each in of_kind(effects, ApplyRecord)] == [two]


def test_what_is_out_of_place_is_of_no_use_and_says_why() -> None:
    ann = Member(ANN)
    ann.meet(BEN)
    ann.rounds.look(0.0)
    elsewhere = Head(0, b"\x09" * 32, DIGEST)
    assert "not another member" in str(ann.rounds.heard(1.0, contribution(DAN)))
    assert "not another member" in str(ann.rounds.heard(1.0, contribution(ANN)))
    assert "samples" in str(ann.rounds.heard(1.0, contribution(BEN, samples=101)))
    assert "payload" in str(ann.rounds.heard(1.0, contribution(BEN, payload=BlobRef(DIGEST, 2**40))))
    assert "not open" in str(ann.rounds.heard(1.0, contribution(BEN, round=3)))
    assert "not a known member" in str(ann.rounds.proposed(1.0, proposal(DAN, contribution(DAN))))
    assert "another state" in str(ann.rounds.proposed(1.0, proposal(BEN, contribution(BEN), base=elsewhere)))
    assert ann.rounds.held() == ()


def test_a_refused_contribution_takes_its_proposals_with_it() -> None:
    ann = Member(ANN)
    ann.meet(BEN, CAT)
    ann.rounds.look(0.0)
    bad = contribution(BEN)
    done(ann.rounds.heard(1.0, bad))
    done(ann.rounds.proposed(1.0, proposal(CAT, bad)))
    assert [type(event) for event in events(ann.rounds.checked(1.0, bad, "no good"))] == [Problem]
    assert "refused here" in str(ann.rounds.proposed(1.0, proposal(BEN, bad)))


def test_the_first_contribution_heard_counts_and_another_is_evidence() -> None:
    ann = Member(ANN)
    ann.meet(BEN)
    ann.rounds.look(0.0)
    one, two = contribution(BEN, samples=1), contribution(BEN, samples=2)
    done(ann.rounds.heard(1.0, one))
    assert "heard first" in str(ann.rounds.heard(1.0, two))
    assert ann.rounds.evidence == {(BEN.peer_id, 1): (one.envelope, two.envelope)}
    assert EVIDENCE_MAX == 64
    proposed = proposal(BEN, two)  # the proposer heard the other one first
    done(ann.rounds.proposed(1.0, proposed))
    effects = [*ann.rounds.collected(1.0, proposed, (two,)), *ann.rounds.checked(1.0, two, None)]
    assert of_kind(effects, ApplyRecord) == [ApplyRecord(proposed, (two,))]


def test_contributions_and_proposals_of_the_next_round_wait_for_it() -> None:
    ann, ben = Member(ANN), Member(BEN)
    ann.meet(BEN)
    ann.rounds.look(0.0)
    a, b = contribution(ANN), contribution(BEN)
    first = proposal(BEN, a, b)
    head = Head(1, first.hash, b"\x01" * 32)
    early = contribution(BEN, 2, head)
    done(ann.rounds.contributed(1.0, a))
    effects = done(ann.rounds.heard(1.0, early))
    assert of_kind(effects, AskRecords) == [AskRecords(1, (BEN.peer_id,))]  # it shows that its author is ahead
    done(ann.rounds.proposed(1.0, proposal(BEN, early, base=head)))
    done(ann.rounds.proposed(1.0, first))
    effects = [*ann.rounds.collected(1.0, first, (b,)), *ann.rounds.checked(1.0, b, None)]
    assert [each.proposed for each in of_kind(effects, ApplyRecord)] == [first]
    effects = ann.rounds.applied(2.0, first, b"\x01" * 32)
    assert CheckPayload(early) in effects
    assert len(of_kind(ann.rounds.checked(2.0, early, None), ApplyRecord)) == 1
    assert ben.rounds.round == 1


def test_a_member_far_behind_goes_by_checkpoint_and_one_on_another_branch_too() -> None:
    ann = Member(ANN)
    far, branch = Head(9, b"\x01" * 32, DIGEST), Head(0, b"\x00" * 32, DIGEST)
    ann.meet(BEN, head=far)
    assert of_kind(ann.rounds.look(0.0), Resync) == [Resync(far, (BEN.peer_id,))]
    assert ann.rounds.look(1.0) == []  # under way
    cat = Member(CAT)
    cat.meet(BEN, head=branch)
    effects = cat.rounds.look(0.0)
    assert of_kind(effects, Resync) == ([Resync(branch, (BEN.peer_id,))] if branch.record < SWARM else [])


def test_a_head_that_leads_nowhere_is_let_be_and_work_begins() -> None:
    ann = Member(ANN)
    ann.meet(BEN, head=Head(9, b"\x01" * 32, DIGEST))
    assert of_kind(ann.rounds.look(0.0), Train) == []
    effects = ann.rounds.resync_failed(1.0, (BEN.peer_id,))
    assert len(of_kind(effects, Train)) == 1
    assert ann.rounds.deadline(1.0) == 2.0  # then what others may tell is looked at again
    assert len(of_kind(ann.rounds.look(6.0), Resync)) == 1  # and this one after its doubt


def test_a_member_whose_record_is_nowhere_to_be_had_goes_by_checkpoint() -> None:
    ann = Member(ANN)
    ahead = Head(1, b"\x01" * 32, DIGEST)
    ann.meet(BEN, head=ahead)
    assert of_kind(ann.rounds.look(0.0), AskRecords) == [AskRecords(1, (BEN.peer_id,))]
    assert of_kind(ann.rounds.asked(1.0, is_found=False), Resync) == [Resync(ahead, (BEN.peer_id,))]
    effects = ann.rounds.adopted(2.0, ahead, (BEN.peer_id,))
    assert of_kind(effects, Train) == [Train(2, tuple(sorted((ANN.peer_id, BEN.peer_id))), 22.0)]


def test_a_paused_member_follows_and_does_its_part_again_after_resuming() -> None:
    ann = Member(ANN)
    ann.rounds.look(0.0)
    ann.rounds.stand(1.0, Standing.PAUSED)
    assert ann.rounds.is_over(1)
    assert len(of_kind(ann.rounds.stand(2.0, Standing.TRAINER), Train)) == 1
    assert not ann.rounds.is_over(1)


def test_who_sits_out_is_not_waited_for_and_proposes_nothing() -> None:
    ann = Member(ANN)
    ann.meet(BEN)
    ann.rounds.look(0.0)
    assert AnnounceHeld() in ann.rounds.sits_out(1.0)
    assert ann.rounds.owes_have(BEN.peer_id)
    assert of_kind(hold(ann, 2.0, contribution(BEN)), ProposeRecord) == []
    assert of_kind(ann.rounds.look(100.0), ProposeRecord) == []


def test_a_swarm_with_a_fixed_start_takes_that_state_and_no_other() -> None:
    right = Head(0, SWARM, b"\x07" * 32)
    roster = Roster(ANN.peer_id, 64)
    new_closing = lambda: LowestPeerCloses(ANN.peer_id, 1, 2.0)  # noqa: E731
    rounds = Rounds(SPEC, ANN.peer_id, roster, new_closing, Standing.TRAINER, START, (), right.digest)
    assert [type(event) for event in events(rounds.look(0.0))] == [Waiting]
    roster.greet(Present(BEN.peer_id, Presence(1, Standing.TRAINER, ())), Head(0, SWARM, b"\x01" * 32))
    assert of_kind(rounds.look(1.0), Resync) == []
    roster.greet(Present(CAT.peer_id, Presence(1, Standing.TRAINER, ())), right)
    assert of_kind(rounds.look(2.0), Resync) == [Resync(right, (CAT.peer_id,))]
    assert len(of_kind(rounds.adopted(3.0, right, ()), Train)) == 1


def test_the_last_round_is_the_end() -> None:
    ann = Member(ANN, make_spec(rounds_max=1))
    ann.rounds.look(0.0)
    own = contribution(ANN)
    done(ann.rounds.contributed(1.0, own))
    ann.rounds.applied(2.0, proposal(ANN, own), DIGEST)
    assert ann.rounds.phase is Phase.FINISHED
    assert ann.rounds.look(3.0) == []
    ann.meet(BEN)
    assert "not open" in str(ann.rounds.heard(3.0, contribution(BEN, 1)))


def test_memory_stays_bounded_whatever_strangers_send() -> None:
    spec = make_spec(members_max=4)
    ann = Member(ANN, spec)
    ann.rounds.look(0.0)
    crowd = [Identity.from_seed(n.to_bytes(32, "big")) for n in range(100, 140)]
    for each in crowd:
        if ann.roster.greet(Present(each.peer_id, Presence(1, Standing.TRAINER, ())), START):
            for round in (1, 2):
                ann.rounds.heard(1.0, contribution(each, round))
                ann.rounds.proposed(
                    1.0, proposal(each, contribution(each), base=START if round == 1 else Head(1, SWARM, b""))
                )
            ann.roster.lose(each.peer_id)  # makes room for the next
    assert sum(ann.rounds.offer(contribution(each).hash) is not None for each in crowd) <= 4


class Bag:
    """Members driven against one another: what they send lies in a bag; any of it comes next, or twice, or never."""

    def __init__(self, count: int, seed: int, loss: float) -> None:
        self.draw = random.Random(seed)
        self.loss = loss
        self.now = 0.0
        self.members = {who.peer_id: Member(who, make_spec(members_start=count)) for who in PEOPLE[:count]}
        self.bag: list[tuple[PeerId, str, Any]] = []
        self.made: dict[bytes, Offered] = {}  # all contributions ever: somebody has them
        self.applied: dict[PeerId, list[Proposed]] = {peer: [] for peer in self.members}
        self.heads: dict[int, set[bytes]] = {}
        for peer, member in self.members.items():
            member.meet(*(other.who for name, other in self.members.items() if name != peer))
        for peer, member in self.members.items():
            self.carry_out(peer, member.rounds.look(self.now))

    def tell_others(self, peer: PeerId, kind: str, thing: object) -> None:
        self.bag += [(other, kind, thing) for other in self.members if other != peer]

    def carry_out(self, peer: PeerId, effects: list[Effect] | str) -> None:
        member = self.members[peer]
        for effect in [] if isinstance(effects, str) else effects:
            match effect:
                case Train(round):
                    head = member.rounds.head
                    own = contribution(member.who, round, head, payload=bytes([round]))
                    self.bag.append((peer, "contributed", own))
                case CheckPayload(offered):
                    self.bag.append((peer, "checked", offered))
                case ProposeRecord(record):
                    proposed = seal_proposal(member.who, SWARM, record)
                    self.tell_others(peer, "proposed", proposed)
                    self.carry_out(peer, member.rounds.proposed(self.now, proposed))
                case ApplyRecord(proposed, offers):
                    assert [each.member for each in offers] == [row.member for row in proposed.record.taken]
                    self.bag.append((peer, "applied", proposed))
                case Collect(proposed):
                    self.bag.append((peer, "collected", proposed))
                case AskRecords(round):
                    self.bag.append((peer, "asked", round))
                case Resync():
                    self.bag.append((peer, "resync", effect))
                case _:
                    pass

    def deliver(self, peer: PeerId, kind: str, thing: Any) -> None:
        member, rounds = self.members[peer], self.members[peer].rounds
        match kind:
            case "contributed":
                if not rounds.is_over(thing.round):
                    self.tell_others(peer, "heard", thing)
                    self.carry_out(peer, rounds.contributed(self.now, thing))
            case "heard":
                self.carry_out(peer, rounds.heard(self.now, thing))
            case "checked":
                self.carry_out(peer, rounds.checked(self.now, thing, None))
            case "proposed":
                self.carry_out(peer, rounds.proposed(self.now, thing))
            case "collected":
                self.carry_out(peer, rounds.collected(self.now, thing, list(self.made.values())))
            case "applied":
                if rounds.phase is Phase.APPLYING and rounds.head.record == thing.record.previous:
                    self.applied[peer].append(thing)
                    self.carry_out(peer, rounds.applied(self.now, thing, thing.hash))
                    self.tell_others(peer, "have", (peer, rounds.head))
            case "asked":
                found = [each for others in self.applied.values() for each in others if each.record.round == thing]
                heard = rounds.caught_up(self.now, found[0]) if found else "nowhere"
                self.carry_out(peer, heard)
                self.carry_out(peer, rounds.asked(self.now, not isinstance(heard, str)))
            case "resync":
                if rounds.phase is not Phase.APPLYING and rounds.is_better(thing.head):
                    self.carry_out(peer, rounds.adopted(self.now, thing.head, ()))
                else:
                    self.carry_out(peer, rounds.resync_ended(self.now))
            case "have":
                teller, head = thing
                self.carry_out(peer, rounds.heard_have(self.now, teller, head, (), False))
            case _:
                raise AssertionError(kind)
        if member.roster.connected():
            self.heads.setdefault(rounds.head.round, set()).add(rounds.head.record)

    def run(self, rounds: int) -> None:
        """Until all have closed `rounds`, or nothing moves."""
        for _ in range(3_000):
            if all(member.rounds.head.round >= rounds for member in self.members.values()):
                return
            if not self.bag:
                self.now = min(member.rounds.deadline(self.now) for member in self.members.values())
                for peer, member in self.members.items():
                    self.carry_out(peer, member.rounds.look(self.now))
                for peer, member in self.members.items():  # what a hello every half minute brings
                    self.tell_others(peer, "have", (peer, member.rounds.head))
                continue
            peer, kind, thing = self.bag.pop(self.draw.randrange(len(self.bag)))
            if isinstance(thing, Offered):
                self.made[thing.hash] = thing
            is_message = kind in ("heard", "proposed", "have")
            if is_message and self.draw.random() < self.loss:
                continue
            self.deliver(peer, kind, thing)
            if is_message and self.draw.random() < 0.1:
                self.bag.append((peer, kind, thing))
        raise AssertionError({peer: member.rounds.head.round for peer, member in self.members.items()})


@settings(max_examples=40)
@given(st.integers(1, 6), st.integers(0, 2**32), st.sampled_from([0.0, 0.0, 0.2]))
def test_members_reach_the_rounds_whatever_the_order_and_loss_of_messages(count: int, seed: int, loss: float) -> None:
    bag = Bag(count, seed, loss)
    bag.run(3)
    for peer, applied in bag.applied.items():
        numbers = [proposed.record.round for proposed in applied]
        assert numbers == sorted(numbers), peer
    if loss == 0.0:
        assert all(len(records) == 1 for records in bag.heads.values())
