"""One member's part in agreeing on the next record: what it would propose, and what it says to what others propose.

Between `Agreement`, which knows votes and no contributions, and `Course`, which knows what this member does next. What
a peer may say stands in voting.py and judging.py. Until this member has heard what others remember of its own votes it
says nothing; who finds a vote of its own there that it does not remember was restored from a copy, and abstains until
the round is over.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed

from .agreed import CHANGES_MAX, AgreedRecord, Position, Share, StoreMark, next_record, record_value
from .agreeing import Agreement, Ask, JudgeRecord, Keep, Split
from .agreeing import Effect as AgreementEffect
from .effects import Collect, Effect, JudgeStore, Observe, SpreadWords
from .events import AttemptBegan, Problem
from .judging import Unsettled, View, is_of_something, judge, shares_of
from .ledger import Closed
from .members import Change, Expel, Opine, Resume, Suspend
from .records import Offered
from .votes import VALUE_BYTES_MAX, Ballot, Proposal, Value, Vote, shortened
from .voting_effects import Accuse, Began, Save, Send
from .words import Words

COLLECT_PAUSE_S = 1.0  # before what a record takes is asked for again


@dataclass(slots=True)
class _Waiting:
    """A record that this member has yet to judge."""

    record: AgreedRecord
    is_backed: bool
    collects_at: float = -1.0


class Deliberation:
    """See the module's text. `view` tells where this member stands at present."""

    def __init__(self, agreement: Agreement, words: Words, view: Callable[[float], View]) -> None:
        self._agreement = agreement
        self._words = words
        self._view = view
        self._waiting: dict[bytes, _Waiting] = {}
        self.closed: list[Closed] = []  # rounds that have ended, for `Course` to take
        self.asks: set[PeerId] = set()  # who knows more of the log
        self.other_state: bytes | None = None  # a quorum computed this one

    @property
    def round(self) -> int:
        """That is voted on."""
        return self._agreement.round

    def deadline(self, now: float) -> float:
        """When to call `look` even if nothing happens."""
        again = (waiting.collects_at for waiting in self._waiting.values() if waiting.collects_at > now)
        return min([self._agreement.deadline, *again])

    def look(self, now: float) -> list[Effect]:
        """Something changed, or time passed."""
        return [*self._do(now, self._agreement.look(now)), *self._judge(now)]

    def met(self, now: float, peer: PeerId) -> list[Effect]:
        """It is connected and was not: it hears what this member has to say."""
        return self._do(now, self._agreement.met(peer))

    def close(self, now: float, offers: Iterable[Offered]) -> list[Effect]:
        """The round may close, with these contributions; without any, for the sake of its changes."""
        view = self._view(now)
        changes = self._changes(view)
        after = view.electorate.after(self.round, changes)
        members = () if isinstance(after, Malformed) else after.by_member
        shares = shares_of((offered for offered in offers if offered.member in members), view)
        if not shares and not changes:
            return []
        mark = view.compacting.proposal(self.round) if self._agreement.is_first_turn else None
        plain = self._value(view, shares, changes)
        value = plain if mark is None else self._value(view, shares, changes, mark) or plain
        exact = tuple(change for change in changes if not isinstance(change, Suspend))
        undisputed = self._value(view, shares, exact) if shares or exact else None
        ready = self._agreement.ready(now, value, undisputed or plain)
        return [*self._do(now, ready), *self._judge(now)]

    def _value(
        self, view: View, shares: tuple[Share, ...], changes: tuple[Change, ...], mark: StoreMark | None = None
    ) -> Value | None:
        """What this member would propose; None where that is not possible."""
        record = next_record(self._agreement.position, view.head.digest, shares, changes, mark, view.testimony)
        value = None if isinstance(record, Malformed) else record_value(record)
        return None if value is None or len(value.data) > VALUE_BYTES_MAX else value

    def shares(self, record: bytes) -> tuple[Share, ...]:
        """What a record takes that this member has yet to judge."""
        waiting = self._waiting.get(record)
        return () if waiting is None else waiting.record.taken

    def heard(self, now: float, peer: PeerId, ballots: Iterable[Ballot]) -> list[Effect]:
        effects: list[Effect] = []
        for ballot in ballots:
            effects += self._do(now, self._agreement.heard(now, peer, ballot))
        return [*effects, *self._judge(now)]

    def leap(self, position: Position) -> None:
        """The log goes on from there."""
        self._agreement.leap(position)
        self._waiting.clear()
        self._words.forget(position)
        self.asks.clear()

    def recall(self, votes: Iterable[Vote]) -> list[Effect]:
        """What a peer remembers of this member's votes."""
        if not self._agreement.recall(votes):
            return []
        text = (
            "this node has voted in this round before and does not remember it: its data directory was copied or "
            "restored, or a copy of it is running. It abstains until the round is over; stop the copy"
        )
        return [Observe(Problem(text))]

    def _do(self, now: float, effects: Iterable[AgreementEffect]) -> list[Effect]:
        done: list[Effect] = []
        for effect in effects:
            done += self._translated(effect)
        return done

    def _translated(self, effect: AgreementEffect) -> list[Effect]:
        match effect:
            case Save() | Send():
                return [effect]
            case Ask(peer):
                self.asks.add(peer)
                return []
            case JudgeRecord(value, record, is_backed):
                self._waiting[value.hash] = _Waiting(record, is_backed)
                return []
            case Began(attempt, proposer, reason):
                return [Observe(AttemptBegan(self.round, attempt, proposer, reason))]
            case Accuse(first, second):
                return self._accuse(first, second)
            case Split(first):
                text = f"two certified records for round {first.round}, both signed by {', '.join(effect.culprits)}"
                return [effect, Observe(Problem(f"{text}: this node stops here"))]
            case Keep(decided, record, position, voters):
                self._waiting.clear()
                self._words.forget(position)
                self.other_state = None
                closed = Closed(decided, record, position.record, voters)
                self.closed.append(closed)
                return [effect]

    def _accuse(self, first: Vote | Proposal, second: Vote | Proposal) -> list[Effect]:
        member = PeerId(first.voter if isinstance(first, Vote) else first.proposer)
        expel = Expel(member, shortened(first), shortened(second))
        is_news = self._words.hear(self._agreement.position, expel)
        return [SpreadWords((expel,))] if is_news else []

    def _changes(self, view: View) -> tuple[Change, ...]:
        """What others ask for, and whom this member no longer hears, or hears again."""
        position = self._agreement.position
        fitting = self._words.fitting(position)
        changes = [change for change in fitting if not isinstance(change, Opine) or is_of_something(view, change)]
        gone = {change.member for change in changes}
        for seat in position.electorate.seats:
            member = PeerId(seat.member)
            if member in gone or member == view.me or seat.is_suspended == (member in view.silent):
                continue
            changes.append(Resume(member) if seat.is_suspended else Suspend(member))
        return tuple(changes[:CHANGES_MAX])

    def _judge(self, now: float) -> list[Effect]:
        """Say what can be said to what others propose; ask for what is missing."""
        effects: list[Effect] = []
        for hash, waiting in list(self._waiting.items()):
            if self._waiting.get(hash) is not waiting:
                continue  # decided by what was said before
            if not self._agreement.voting.is_known(hash):
                del self._waiting[hash]  # more was proposed since than is kept
                continue
            verdict = judge(self._view(now), waiting.record, waiting.is_backed)
            if isinstance(verdict, Unsettled):
                self.other_state = verdict.other_state or self.other_state
                effects += self._collect(now, hash, waiting, verdict)
                continue
            del self._waiting[hash]
            effects += self._do(now, self._agreement.judged(now, hash, verdict))
        return effects

    def _collect(self, now: float, hash: bytes, waiting: _Waiting, unsettled: Unsettled) -> list[Effect]:
        missing, mark = unsettled.missing, unsettled.mark
        if not (missing or mark) or now < waiting.collects_at:
            return []
        waiting.collects_at = now + COLLECT_PAUSE_S
        collect: list[Effect] = [Collect(hash, missing, self._agreement.proposer)] if missing else []
        return collect if mark is None else [*collect, JudgeStore(self.round, mark)]
