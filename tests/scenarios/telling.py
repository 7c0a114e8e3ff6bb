"""A story's transcript: who said what and when, in words, with names in place of peer ids."""

from collections.abc import Mapping

from shoal.training.agreed import read_record
from shoal.training.votes import Ballot, Decided, Proposal, Step, Tally, Value, Vote, value_of
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed


class Transcript:
    """Of one story."""

    def __init__(self, names: Mapping[PeerId, str]) -> None:
        self._names = names
        self._titles = {b"": "nothing"}
        self.lines: list[str] = []

    def say(self, now: float, name: str, text: str) -> None:
        for peer, known in self._names.items():
            text = text.replace(peer, known)
        self.lines.append(f"{now:7.2f}  {name} {text}")

    def described(self, ballot: Ballot) -> str:
        match ballot:
            case Proposal(value=data, polka_attempt=polka_attempt):
                why = "" if polka_attempt is None else f", which a quorum prevoted in attempt {polka_attempt}"
                return f"proposes {self.title(value_of(data))}{why}"
            case Vote(step=step, choice=choice, bound_by=bound_by):
                word = "prevotes" if step is Step.PREVOTE else "precommits"
                said = f"{word} {self._titles.get(choice, choice.hex()[:8])}"
                if bound_by is None:
                    return said
                bound = self.title(value_of(bound_by.value))
                return f"{said}, for in attempt {bound_by.attempt} a quorum prevoted {bound}"
            case Decided():
                return f"shows how round {ballot.round} ended"
            case Tally(step=step, votes=votes):
                voters = " ".join(sorted(self._names[PeerId(each.member)] for each in votes))
                return f"passes on what {voters} {'prevote' if step is Step.PREVOTE else 'precommit'}"

    def title(self, value: Value) -> str:
        """What a record takes and changes."""
        record = read_record(value)
        assert not isinstance(record, Malformed)
        taken = " ".join(sorted(self._names[PeerId(share.member)] for share in record.taken))
        changes = (f"{type(change).__name__.lower()} {self._names[PeerId(change.member)]}" for change in record.changes)
        return self._titles.setdefault(value.hash, "[" + "; ".join([taken, *changes]) + "]")
