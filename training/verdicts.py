"""What members agree on about contributions that some of them did again: a pure function of the log.

A member that finds out, by doing parts of a contribution again, that they were made up says so in a signed word (an
`Opine`), which a record takes. That opens a case. Who has done the same parts and found them right says that, too; who
has nothing to say is silent. As soon as members with a quorum of all votes have spoken for one side, the case is
closed: the contribution was made up, or those were wrong who said so, as its own member says by having made it. Either
way who stood on the other side has a verdict against it. A case that no quorum closes in CASE_ROUNDS says nothing of
anybody.

Who was not given what it takes to look says that, as a doubt (WITHHELD). Where that is half of the quorum's doubts or
more, the author is found to have withheld it, a lesser fault: a laptop whose lid is closed does that, too. All doubts
add up to one quorum: else an author would give to some and not to others, and no quorum could ever speak.

What a malicious judge may say is what it likes, once in each case. What it cannot: bring about a verdict without a
quorum, nor speak without a vote; where the quorum finds otherwise its word is held against itself. Whom honest members
have found wrong by accident or for lack of time to look, nobody judges.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import structs

from shoal.transport.port import PeerId
from shoal.transport.wire import Message, PeerIdText

from .members import RIGHT, WITHHELD, Electorate, Opine
from .records import MEMBERS_MAX, RoundNumber
from .reputation import Fault

CASE_ROUNDS: Final = 16  # from the record that opens it
CASES_MAX: Final = 64  # open or lately closed; what comes on top is heard of later, or never
CASES_OF_JUDGE_MAX: Final = 4  # that one member opens at once: liars do not fill all room


class Opinion(Message, frozen=True):
    """One judge's."""

    judge: PeerIdText
    came_out: Annotated[int, msgspec.Meta(ge=0, le=RIGHT)]


class Case(Message, frozen=True):
    """One contribution's."""

    member: PeerIdText
    round: RoundNumber  # that it was made for
    base_round: RoundNumber
    opened: RoundNumber  # the record's that took the first word
    opinions: Annotated[tuple[Opinion, ...], msgspec.Meta(max_length=MEMBERS_MAX)]  # as they came; none once closed
    is_closed: bool = False  # kept until it would have ended: late words open no second one

    @property
    def place(self) -> tuple[str, int, int]:
        """Of the contribution in the log."""
        return self.member, self.round, self.base_round


Cases = Annotated[tuple[Case, ...], msgspec.Meta(max_length=CASES_MAX)]


class Verdict(NamedTuple):
    """Against a member."""

    member: PeerId
    case: Case  # with all opinions
    fault: Fault  # that of the contribution's author, or of one who judged it falsely


def place_of(word: Opine) -> tuple[str, int, int]:
    return word.member, word.round, word.base_round


def may_come(cases: Sequence[Case], word: Opine, round: int) -> bool:
    """Whether the record of `round`, or one after it, may have use for this word."""
    if not round - CASE_ROUNDS <= word.round <= round + CASE_ROUNDS:
        return False
    case = next((case for case in cases if case.place == place_of(word)), None)
    return case is None or (not case.is_closed and all(each.judge != word.judge for each in case.opinions))


def is_wanted(cases: Sequence[Case], word: Opine, round: int) -> bool:
    """Whether the record of `round` has use for this word."""
    if not word.base_round < word.round or not round - CASE_ROUNDS <= word.round <= round:
        return False
    case = next((case for case in cases if case.place == place_of(word)), None)
    if case is not None:
        return not case.is_closed and all(each.judge != word.judge for each in case.opinions)
    opened = sum(bool(case.opinions) and case.opinions[0].judge == word.judge for case in cases)
    is_accusing = word.came_out < RIGHT  # who finds all well has nothing to say before somebody doubts it
    return is_accusing and len(cases) < CASES_MAX and opened < CASES_OF_JUDGE_MAX


def after(cases: Sequence[Case], round: int, words: Iterable[Opine]) -> tuple[Case, ...] | None:
    """The cases once the record of `round` has taken these words, in order, none closed by them yet; None if one of
    them is not wanted.
    """
    kept = {case.place: case for case in cases if case.opened + CASE_ROUNDS > round}
    for word in words:
        if not is_wanted(tuple(kept.values()), word, round):
            return None
        case = kept.get(place_of(word)) or Case(*place_of(word), round, ())
        opinions = (*case.opinions, Opinion(word.judge, word.came_out))
        kept[case.place] = structs.replace(case, opinions=opinions)
    return tuple(kept.values())


def settled(cases: Sequence[Case], electorate: Electorate) -> tuple[tuple[Case, ...], tuple[Verdict, ...]]:
    """The cases with those closed that a quorum has spoken on, and what follows."""
    left: list[Case] = []
    verdicts: list[Verdict] = []
    for case in cases:
        sides = [
            [PeerId(each.judge) for each in case.opinions if (each.came_out < RIGHT) == is_doubting]
            for is_doubting in (True, False)
        ]
        doubting, content = sides
        if electorate.is_quorum(doubting):
            verdicts += [Verdict(PeerId(case.member), case, _fault(case, electorate))]
            verdicts += [Verdict(judge, case, Fault.JUDGEMENT) for judge in content]
        elif electorate.is_quorum([*content, PeerId(case.member)]):
            verdicts += [Verdict(judge, case, Fault.JUDGEMENT) for judge in doubting]
        else:
            left.append(case)
            continue
        left.append(structs.replace(case, opinions=(), is_closed=True))
    return tuple(left), tuple(verdicts)


def _fault(case: Case, electorate: Electorate) -> Fault:
    """What those who doubt it have found, by their votes."""
    votes = dict.fromkeys((True, False), 0)  # by whether it was withheld
    for each in case.opinions:
        if each.came_out < RIGHT:
            votes[each.came_out == WITHHELD] += electorate.votes(PeerId(each.judge))
    return Fault.WORK if votes[False] > votes[True] else Fault.WITHHELD
