"""How much each member's contributions count, from what rounds showed of earlier ones: integers, from the log alone.

Everybody folds the same records in the same order, so everybody has the same table. Trust grows by a 32nd with each
contribution and is halved by each that something is held against. Attacks also raise suspicion, and each step of it
halves the weight until it is over: so a single one costs little for long, and a second one counts next to nothing. Who
goes on is banned for a time; who rides free is not, but ends without weight. Held against a member is:

- Attack: its row points away from the coordinate median of the voters' rows, by far more than is usual among them in
  this round. RFFL (Xu and Lyu 2021, arXiv 2011.10464) compares with its own weighted sum, which keeps whoever it keeps;
  and an absolute bound bans honest members whose data are unusual, for theirs point away from the others' always.
- Attack: it is many times as long as the voters' usually are.
- Free ride: it was contributed before, by whomever (a voter's: by a voter), or is zero. Honest members do that, too,
  where they have nothing to learn any more from their data and contribute a momentum of their own: those are not to be
  banned.
- Free ride: its rows have been equal to those of half of the voters, now of this one and now of that. Of two rows that
  are equal nobody can tell which is the copy, so those that are count as one together. But honest members do not copy:
  an honest one is equal to attackers alone, who are fewer than half.
- A ban at once: a quorum's verdict that its work was done again and came out otherwise. Attack: any other verdict.
  Where members' data differ much, honest rows hardly agree more with one another than with their opposites, and only
  verdicts tell them apart (docs/robustness.md).

With two voters or fewer, or half or less of those that contributed lately, there is no majority to be compared with,
and nothing but verdicts counts. What a malicious member can do: behave, gain trust slowly, and lose it with a few
contributions; and wait until the model has learned what there is, when honest rows are noise and point anywhere, too.
Fewer than half of the voters cannot make an honest member seem an attacker where honest members agree.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Final, NamedTuple

import msgspec
from blake3 import blake3

from shoal.transport.wire import U64, Message, PeerIdText

from .evidence import COSINE, LENGTH, NOTHING, OVERLAP, Evidence
from .remembered import LATELY

TRUST_MAX: Final = 2**16
TRUST_MIN: Final = 2**4  # of who is not banned: a row without any weight would show nothing, and so never regain it
TRUST_START: Final = 2**13  # of who is new, or is back from a ban: less than what a few rounds of behaving bring
GROWTH: Final = (TRUST_MAX - TRUST_START) // 32  # by one contribution; half of that after a ban, a third after two
FALL: Final = 2  # what trust is divided by
SUSPECT: Final = 2  # what suspicion grows by with an attack; it falls by 1 with a contribution that is none
SUSPICION_MAX: Final = 8  # then a ban: four attacks in a row, or more than a third of all contributions
COPIES_KEPT: Final = 16  # contributions without a copy, and those before are forgotten
PARTNERS: Final = 256  # that are told apart: swarms of more voters than this have copiers share their weight alone
TOLERANCE: Final = 5  # times the median distance from the median similarity
TOLERANCE_MIN: Final = COSINE // 2
LONG: Final = 8 * LENGTH  # honest rows come to 4, and to 7 where data differ much
COPY: Final = COSINE - COSINE // 256  # honest rows come to 0.95 of COSINE, colluders' of the same kind to 0.99
AGREED: Final = COSINE - COSINE // 64  # to the median: where most are so near, honest rows may be equal, too
REPEATED: Final = OVERLAP - OVERLAP // 256
KNOWN: Final = TRUST_MAX // 4  # trust that costs more than a few contributions
STANDINGS_MAX: Final = 2048  # twice the members there may be: who is gone for a while comes back as it was

Trust = Annotated[int, msgspec.Meta(ge=0, le=TRUST_MAX)]


class Copies(Message, frozen=True):
    """With which voters' rows a member's were equal."""

    partners: Annotated[bytes, msgspec.Meta(min_length=PARTNERS // 8, max_length=PARTNERS // 8)]  # see `_bit`
    among: Annotated[int, msgspec.Meta(ge=1, le=STANDINGS_MAX)]  # the most voters there were at any of these times
    since: Annotated[int, msgspec.Meta(ge=0, lt=COPIES_KEPT)] = 0  # contributions after the last of these


class Standing(Message, frozen=True):
    """One member's."""

    member: PeerIdText
    trust: Trust = TRUST_START
    suspicion: Annotated[int, msgspec.Meta(ge=0, lt=SUSPICION_MAX)] = 0
    copies: Copies | None = None  # none lately
    alike: Annotated[int, msgspec.Meta(ge=1, le=STANDINGS_MAX)] = 1  # how many were equal to its last, it among them
    banned_until: U64 = 0  # the last round of the latest ban
    bans: U64 = 0
    last_round: U64 = 0  # in which anything of it was taken


class Fault(Enum):
    """What a quorum finds of a member. The first bans at once, the others are attacks like those that rounds show."""

    WORK = "work"  # what it contributed is not what it committed itself to
    WITHHELD = "withheld"  # it did not hand over what its work started from
    JUDGEMENT = "judgement"  # it said the opposite of what the quorum says


class Verdict(NamedTuple):
    member: str
    fault: Fault


class Taken(NamedTuple):
    """One member's part in a round."""

    member: str
    is_voters: bool  # as of then
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Rules:
    """The spec's."""

    ban_rounds: int  # that a ban lasts, at least 1


class Charge(Enum):
    """Why a contribution is held against its member."""

    AWAY = "points away from what the others say"
    LONG = "is many times as long as the others"
    REPEATED = "was contributed before, or is zero"
    COPIED = "is a copy, as it was of half of the voters' by now"

    @property
    def is_attack(self) -> bool:
        """Or else a free ride."""
        return self in (Charge.AWAY, Charge.LONG)


class Reputation(Message, frozen=True):
    """Every member's standing; who has none is as good as new."""

    standings: Annotated[tuple[Standing, ...], msgspec.Meta(max_length=STANDINGS_MAX)] = ()  # sorted by member

    def standing(self, member: str) -> Standing:
        place = bisect_left(self.standings, member, key=lambda standing: standing.member)
        found = self.standings[place] if place < len(self.standings) else None
        return found if found is not None and found.member == member else Standing(member)

    def trust(self, member: str, round: int) -> int:
        """By which its contribution counts in `round`, 0 to TRUST_MAX; 0 while it is banned."""
        return trust_of(self.standing(member), round)

    def after(
        self,
        round: int,
        taken: Sequence[Taken],
        verdicts: Sequence[Verdict],
        rules: Rules,
        voters: Collection[str] = frozenset(),
    ) -> "Reputation":
        """The table once `round` took what `taken` says.

        Args:
            taken: each member once, sorted; NOTHING as evidence where nothing of it had any weight.
            verdicts: that the round's record holds.
            voters: all who have votes.
        """
        table, lately = self._table(), self.lately(voters)
        charges, copied = charged(self, taken, lately), _copied(self, taken, lately)
        alike = _alike(taken, {member for member, charge in charges.items() if charge is Charge.COPIED})
        blamed = {verdict.member for verdict in verdicts}
        for each in taken:
            standing = table.get(each.member, Standing(each.member))
            if each.evidence == NOTHING or round <= standing.banned_until:
                continue
            copies = copied.get(each.member) or _kept_on(standing.copies)
            standing = msgspec.structs.replace(
                standing, last_round=round, copies=copies, alike=alike.get(each.member, 1)
            )
            charge = charges.get(each.member)
            if charge is not None:
                standing = _fallen(standing, charge.is_attack, round, rules)
            elif each.member not in blamed:
                standing = _risen(standing)
            table[each.member] = standing
        for verdict in verdicts:
            standing = table.get(verdict.member, Standing(verdict.member))
            if verdict.fault is Fault.WORK:
                table[verdict.member] = _banned(standing, round, rules)
            elif round > standing.banned_until:
                table[verdict.member] = _fallen(standing, True, round, rules)
        return Reputation(_kept(table, round, voters))

    def lately(self, voters: Collection[str]) -> int:
        """How many of these have contributed lately."""
        newest = max((standing.last_round for standing in self.standings), default=0)
        return sum(each.last_round > newest - LATELY and each.member in voters for each in self.standings)

    def _table(self) -> dict[str, Standing]:
        return {standing.member: standing for standing in self.standings}


def trust_of(standing: Standing, round: int) -> int:
    """Half for each step of suspicion; and those that were equal in their last round count as one together."""
    if round <= standing.banned_until:
        return 0
    return max((standing.trust >> standing.suspicion) // standing.alike, 1)


def charged(reputation: Reputation, taken: Sequence[Taken], lately: int = 0) -> Mapping[str, Charge]:
    """What this round holds against whom. Pure: `shoal log explain` shows it again.

    Nothing where half of the voters that contributed lately, or more, are not in: who proposes a record chooses whom it
    takes, and could have few attackers be the majority that one honest row is compared with.
    """
    similarities = _similarities(taken)
    if len(similarities) <= max(2, lately // 2):
        return {}
    least, copied = least_similarity(similarities), _copied(reputation, taken, lately)
    found: dict[str, Charge] = {}
    for each in taken:
        if each.evidence == NOTHING:
            continue
        if each.evidence.repeated >= REPEATED:
            found[each.member] = Charge.REPEATED
        elif each.evidence.similarity < least:
            found[each.member] = Charge.AWAY
        elif each.evidence.length >= LONG:
            found[each.member] = Charge.LONG
        elif each.member in copied and _is_copier(copied[each.member]):
            found[each.member] = Charge.COPIED
    return found


def least_similarity(similarities: Sequence[int]) -> int:
    """What is not yet at odds with the median, given the voters' similarities to it.

    From their median down: half of it, or as far as members usually are from it times TOLERANCE where they differ more.
    """
    median = _median(similarities)
    usual = _median([abs(similarity - median) for similarity in similarities])
    return median - max(TOLERANCE * usual, median // 2, TOLERANCE_MIN)


def _median(values: Sequence[int]) -> int:
    """The upper one of two."""
    return sorted(values)[len(values) // 2]


def _similarities(taken: Sequence[Taken]) -> list[int]:
    """Of the voters' rows, but for zeros."""
    return [
        each.evidence.similarity
        for each in taken
        if each.is_voters and each.evidence != NOTHING and not _is_zero(each.evidence)
    ]


def _is_zero(evidence: Evidence) -> bool:
    """Whether the row was."""
    return (evidence.similarity, evidence.length, evidence.repeated) == (0, 0, OVERLAP)


def _copied(reputation: Reputation, taken: Sequence[Taken], lately: int) -> Mapping[str, Copies]:
    """Of those whose rows are now equal to a voter's. Only rows that were compared count: of a row that lies between
    two honest ones both may seem a copy, and be none of one another.

    Nothing where most rows are as near to the median as copies are. Attackers bring that about only by having half of
    all rows be equal: those then weigh as much as one.
    """
    similarities = _similarities(taken)
    if not similarities or _median(similarities) >= AGREED:
        return {}
    partners = defaultdict[str, set[str]](set)
    for each in taken:
        other = taken[each.evidence.beside]
        if each.evidence.nearest >= COPY and other.is_voters:
            partners[each.member].add(other.member)
            if each.is_voters:
                partners[other.member].add(each.member)
    found: dict[str, Copies] = {}
    for member, equal in partners.items():
        before = reputation.standing(member).copies
        bits, among = (int.from_bytes(before.partners, "big"), before.among) if before else (0, 1)
        for partner in equal:
            bits |= 1 << _bit(partner)
        among = min(max(among, lately, len(similarities)), STANDINGS_MAX)
        found[member] = Copies(bits.to_bytes(PARTNERS // 8, "big"), among)
    return found


def _bit(member: str) -> int:
    """Where `Copies` has a member. That two share one makes copies seem fewer: nobody is charged for it."""
    return blake3(member.encode()).digest()[0]


def _kept_on(before: Copies | None) -> Copies | None:
    """After a contribution that was equal to no other."""
    if before is None or before.since + 1 == COPIES_KEPT:
        return None
    return msgspec.structs.replace(before, since=before.since + 1)


def _is_copier(copies: Copies) -> bool:
    """Whether more voters were its equals than attackers may be."""
    return 2 * int.from_bytes(copies.partners, "big").bit_count() >= copies.among


def _alike(taken: Sequence[Taken], copiers: Collection[str]) -> Mapping[str, int]:
    """How many rows are equal to a member's, where any is: those that name one another as nearest, directly or not.
    Of a voter's as many as voters have: keys without votes cost nothing, and would leave it no weight. For the same
    reason those are left out that are known to copy.
    """
    group = list(range(len(taken)))

    def root(place: int) -> int:
        while group[place] != place:
            place = group[place]
        return place

    copies = [place for place, each in enumerate(taken) if each.evidence.nearest >= COPY]
    for place in copies:
        group[root(place)] = root(taken[place].evidence.beside)
    roots = [root(place) for place in range(len(taken))]
    honest = [place for place, each in enumerate(taken) if each.member not in copiers]
    voters = Counter(roots[place] for place in honest if taken[place].is_voters)
    everybody = Counter(roots[place] for place in honest)
    found: dict[str, int] = {}
    for place, each in enumerate(taken):
        equal = (voters if each.is_voters else everybody)[roots[place]] + (each.member in copiers)
        if equal > 1:
            found[each.member] = equal
    return found


def _risen(before: Standing) -> Standing:
    trust = min(before.trust + GROWTH // (1 + before.bans), TRUST_MAX)
    return msgspec.structs.replace(before, trust=trust, suspicion=max(before.suspicion - 1, 0))


def _fallen(before: Standing, is_attack: bool, round: int, rules: Rules) -> Standing:
    suspicion = before.suspicion + (SUSPECT if is_attack else 0)
    if suspicion >= SUSPICION_MAX:
        return _banned(before, round, rules)
    return msgspec.structs.replace(before, trust=max(before.trust // FALL, TRUST_MIN), suspicion=suspicion)


def _banned(before: Standing, round: int, rules: Rules) -> Standing:
    """For the spec's number of rounds, after which it starts as low as it has fallen. A ban that is prolonged is one:
    what several quorums find meanwhile was done before.
    """
    until = round + rules.ban_rounds
    if round <= before.banned_until:
        return msgspec.structs.replace(before, banned_until=until)
    return msgspec.structs.replace(
        before,
        trust=max(min(before.trust // FALL, TRUST_START), TRUST_MIN),
        suspicion=0,
        copies=None,
        alike=1,
        banned_until=until,
        bans=before.bans + 1,
    )


def _kept(table: Mapping[str, Standing], round: int, voters: Collection[str]) -> tuple[Standing, ...]:
    """The standings, sorted; beyond STANDINGS_MAX those go first that are little better than new, then the oldest, and
    never a voter's.

    So keys that cost nothing push nobody out who is known for anything. To push one another out from a ban gains them
    nothing: another such key is as good.
    """

    def worth(standing: Standing) -> tuple[bool, bool, int, str]:
        is_known = standing.banned_until >= round or standing.trust > KNOWN
        return standing.member in voters, is_known, standing.last_round, standing.member

    kept = sorted(table.values(), key=worth)[-STANDINGS_MAX:]
    return tuple(sorted(kept, key=lambda standing: standing.member))
