"""How much each member's contributions count, from what rounds showed of earlier ones: integers, from the log alone.

Everybody folds the same records in the same order, so everybody has the same table. Trust grows by a 32nd with each
contribution and is halved by each that something is held against. Attacks also raise suspicion, and each step of it
halves the weight until it is over: so a single one costs little for long, and a second one counts next to nothing. Who
goes on is banned for a time; who rides free is not, but ends without weight. Held against a member is:

- Attack: its row points away from the coordinate median of the voters' rows, by far more than is usual among them in
  this round. RFFL (Xu and Lyu 2021, arXiv 2011.10464) compares with its own weighted sum, which keeps whoever it keeps;
  and an absolute bound bans honest members whose data are unusual, for theirs point away from the others' always.
- Attack: it is many times as long as the voters' usually are.
- Free ride: it was contributed before, by whomever, or is zero. Honest members do that, too, where they have nothing
  to learn any more from their data and contribute a momentum of their own: those are not to be banned.
- Free ride: its rows are always another voter's, and that other's are not always its own. Where they are, nobody can
  tell who copies: all that are equal count as one together.
- A ban at once: a quorum's verdict that its work was done again and came out otherwise. Attack: any other verdict.
  Where members' data differ much, honest rows hardly agree more with one another than with their opposites, and only
  verdicts tell them apart (docs/robustness.md).

With two voters or fewer, or half or less of those that contributed lately, there is no majority to be compared with,
and nothing but verdicts counts. What a malicious member can do: behave, gain trust slowly, and lose it with a few
contributions; and wait until the model has learned what there is, when honest rows are noise and point anywhere, too.
Fewer than half of the voters cannot make an honest member seem an attacker where honest members agree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Final, NamedTuple

import msgspec

from shoal.transport.wire import U64, Message, PeerIdText

from .evidence import COSINE, LENGTH, NOTHING, OVERLAP, Evidence

TRUST_MAX: Final = 2**16
TRUST_MIN: Final = 2**4  # of who is not banned: a row without any weight would show nothing, and so never regain it
TRUST_START: Final = 2**13  # of who is new, or is back from a ban: less than what a few rounds of behaving bring
GROWTH: Final = (TRUST_MAX - TRUST_START) // 32  # by one contribution; half of that after a ban, a third after two
FALL: Final = 2  # what trust is divided by
SUSPECT: Final = 2  # what suspicion grows by with an attack; it falls by 1 with a contribution that is none
SUSPICION_MAX: Final = 8  # then a ban: four attacks in a row, or more than a third of all contributions
COPIES_MIN: Final = 4  # more copies than others in so many rounds: less is chance, or another's doing
COPIES_MAX: Final = 16
TOLERANCE: Final = 5  # times the median distance from the median similarity
TOLERANCE_MIN: Final = COSINE // 2
LONG: Final = 8 * LENGTH  # honest rows come to 4, and to 7 where data differ much
COPY: Final = COSINE - COSINE // 256  # honest rows come to 0.95 of COSINE, colluders' of the same kind to 0.99
REPEATED: Final = OVERLAP - OVERLAP // 256
KNOWN: Final = TRUST_MAX // 4  # trust that costs more than a few contributions
STANDINGS_MAX: Final = 2048  # twice the members there may be: who is gone for a while comes back as it was

Trust = Annotated[int, msgspec.Meta(ge=0, le=TRUST_MAX)]


class Standing(Message, frozen=True):
    """One member's."""

    member: PeerIdText
    trust: Trust = TRUST_START
    suspicion: Annotated[int, msgspec.Meta(ge=0, lt=SUSPICION_MAX)] = 0
    copies: Annotated[int, msgspec.Meta(ge=0, le=COPIES_MAX)] = 0  # rounds with a copy, less those without
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
    is_voters: bool
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
    COPIED = "is a copy of another's, as it was before"

    @property
    def is_attack(self) -> bool:
        """Or else a free ride."""
        return self in (Charge.AWAY, Charge.LONG)


class Reputation(Message, frozen=True):
    """Every member's standing; who has none is as good as new."""

    standings: Annotated[tuple[Standing, ...], msgspec.Meta(max_length=STANDINGS_MAX)] = ()  # sorted by member

    def standing(self, member: str) -> Standing:
        return self._table().get(member, Standing(member))

    def trust(self, member: str, round: int) -> int:
        """By which its contribution counts in `round`, 0 to TRUST_MAX; 0 while it is banned."""
        return trust_of(self.standing(member), round)

    def after(
        self, round: int, taken: Sequence[Taken], verdicts: Sequence[Verdict], rules: Rules, lately: int = 0
    ) -> "Reputation":
        """The table once `round` took what `taken` says.

        Args:
            taken: each member once, sorted; NOTHING as evidence where nothing of it had any weight.
            verdicts: that the round's record holds.
            lately: how many voters have contributed lately.
        """
        table = self._table()
        charges = charged(self, taken, lately)
        alike = _alike(taken)
        blamed = {verdict.member for verdict in verdicts}
        for each in taken:
            standing = table.get(each.member, Standing(each.member))
            if each.evidence == NOTHING or round <= standing.banned_until:
                continue
            standing = _compared(msgspec.structs.replace(standing, last_round=round), alike.get(each.member, 1))
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
        return Reputation(_kept(table, round))

    def _table(self) -> dict[str, Standing]:
        return {standing.member: standing for standing in self.standings}


def trust_of(standing: Standing, round: int) -> int:
    """Half for each step of suspicion; and those that are equal in all their rounds count as one together."""
    if round <= standing.banned_until:
        return 0
    alike = standing.alike if standing.copies >= COPIES_MIN else 1
    return max((standing.trust >> standing.suspicion) // alike, 1)


def charged(reputation: Reputation, taken: Sequence[Taken], lately: int = 0) -> Mapping[str, Charge]:
    """What this round holds against whom. Pure: `shoal log explain` shows it again.

    Nothing where half of the voters that contributed lately, or more, are not in: who proposes a record chooses whom it
    takes, and could have few attackers be the majority that one honest row is compared with.
    """
    shown = [each for each in taken if each.evidence not in (NOTHING, _ZERO)]
    similarities = [each.evidence.similarity for each in shown if each.is_voters]
    if len(similarities) <= max(2, lately // 2):
        return {}
    least = least_similarity(similarities)
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
        elif _is_copier(reputation, each, taken):
            found[each.member] = Charge.COPIED
    return found


def least_similarity(similarities: Sequence[int]) -> int:
    """What is not yet at odds with the median, given the voters' similarities to it.

    From their median down: half of it, or as far as members usually are from it times TOLERANCE where they differ more.
    """
    median = _median(similarities)
    usual = _median([abs(similarity - median) for similarity in similarities])
    return median - max(TOLERANCE * usual, median // 2, TOLERANCE_MIN)


_ZERO: Final = Evidence(repeated=OVERLAP)


def _median(values: Sequence[int]) -> int:
    """The upper one of two."""
    return sorted(values)[len(values) // 2]


def _is_copier(reputation: Reputation, each: Taken, taken: Sequence[Taken]) -> bool:
    """Whether its copies are its own doing: it had one in most rounds, and whose row it has now had not."""
    if each.evidence.nearest < COPY:
        return False
    own = reputation.standing(each.member).copies
    others = reputation.standing(taken[each.evidence.beside].member).copies
    return own >= COPIES_MIN and 2 * others <= own


def _alike(taken: Sequence[Taken]) -> Mapping[str, int]:
    """How many rows are equal to a member's, where any is: those that name one another as nearest, directly or not.
    Of a voter's as many as voters have: keys without votes cost nothing, and would leave it no weight.
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
    voters = [roots[place] for place, each in enumerate(taken) if each.is_voters]
    return {taken[place].member: (voters if taken[place].is_voters else roots).count(roots[place]) for place in copies}


def _compared(before: Standing, alike: int) -> Standing:
    copies = min(before.copies + 1, COPIES_MAX) if alike > 1 else max(before.copies - 1, 0)
    return msgspec.structs.replace(before, copies=copies, alike=alike)


def _risen(before: Standing) -> Standing:
    trust = min(before.trust + GROWTH // (1 + before.bans), TRUST_MAX)
    return msgspec.structs.replace(before, trust=trust, suspicion=max(before.suspicion - 1, 0))


def _fallen(before: Standing, is_attack: bool, round: int, rules: Rules) -> Standing:
    suspicion = before.suspicion + (SUSPECT if is_attack else 0)
    if suspicion >= SUSPICION_MAX:
        return _banned(before, round, rules)
    return msgspec.structs.replace(before, trust=max(before.trust // FALL, TRUST_MIN), suspicion=suspicion)


def _banned(before: Standing, round: int, rules: Rules) -> Standing:
    """For the spec's number of rounds, after which it starts as low as it has fallen."""
    return msgspec.structs.replace(
        before,
        trust=max(min(before.trust // FALL, TRUST_START), TRUST_MIN),
        suspicion=0,
        copies=0,
        alike=1,
        banned_until=round + rules.ban_rounds,
        bans=before.bans + 1,
    )


def _kept(table: Mapping[str, Standing], round: int) -> tuple[Standing, ...]:
    """The standings, sorted; beyond STANDINGS_MAX those go first that are little better than new, then the oldest.

    So keys that cost nothing push nobody out who is known for anything.
    """

    def worth(standing: Standing) -> tuple[bool, int, str]:
        return standing.banned_until >= round or standing.trust > KNOWN, standing.last_round, standing.member

    kept = sorted(table.values(), key=worth)[-STANDINGS_MAX:]
    return tuple(sorted(kept, key=lambda standing: standing.member))
