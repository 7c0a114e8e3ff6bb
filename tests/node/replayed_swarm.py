"""A swarm that has trained: its log, signed by real keys, and what its rounds took, made by a toy method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shoal.node.membership import Membership, SwarmFolder
from shoal.training.agreed import AgreedRecord, Position, Share, next_record
from shoal.training.agreeing import Keep
from shoal.training.archive_reading_service import LOG_NAME
from shoal.training.archive_service import Archive
from shoal.training.history import Made, made_of
from shoal.training.history_service import HISTORY_NAME, History
from shoal.training.ledger import closed_by
from shoal.training.members import Change
from shoal.training.method import Share as Applied
from shoal.training.ports import BytesReader
from shoal.training.records import Offered
from shoal.training.skipping import Proof, beginning
from shoal.training.spec import Spec, sign_spec, swarm_id
from shoal.transport.identity import Identity
from tests.sim.harness import ToyMethod, ToyState
from tests.training.agreed_log import ANN, BEN, CLEO, KEYS, Written, joins, leaves, signed
from tests.training.rows import offer

SPEC = Spec(creator=ANN.peer_id, nonce=bytes(16), name="replayed", method="toy")
ID = swarm_id(SPEC)
ORIGIN = beginning(ID, SPEC)


class WeighingToy(ToyMethod):
    """Its state depends on weights, too."""

    def apply(self, state: ToyState, shares: Sequence[Applied]) -> tuple[ToyState, Mapping[str, float]]:
        state, evidence = super().apply(state, shares)
        weights = sum((place + 1) * share.weight for place, share in enumerate(shares))
        return ToyState(state.round, (state.total * 7 + weights) % 2**61), evidence

    def replay_s(self, contributions: int) -> float:
        return 1e-6 * contributions


METHOD = WeighingToy()


@dataclass
class Trained:
    """A swarm as it goes on: Ben and Cleo come, Cleo goes; every fourth round takes nothing."""

    log: Written = field(default_factory=lambda: Written(ID, ORIGIN))
    rows: list[Made] = field(default_factory=list[Made])
    states: list[ToyState] = field(default_factory=lambda: [METHOD.start(SPEC)[0]])

    def go_on(self, rounds: int) -> "Trained":
        for _ in range(rounds):
            self._round(len(self.rows) + 1)
        return self

    def _round(self, round: int) -> None:
        before = self.log.position
        planned: dict[int, tuple[Change, ...]] = {1: joins(BEN), 2: joins(CLEO)}
        changes = leaves(before, CLEO, ID) if round == 7 else planned.get(round, ())
        offers = self._offers(before, round) if round % 4 else []
        shares = [Share(each.member, round, round - 1, each.hash, each.contribution.samples) for each in offers]
        record = next_record(before, METHOD.digest(self.states[-1]) or b"", shares, changes)
        assert isinstance(record, AgreedRecord), record
        decided = signed(before, record, ID)
        _, after = closed_by(before, decided)
        self.log.keeps.append(Keep(decided, record, after, before.electorate))
        made = made_of(round, offers, [1000 + place for place in range(len(offers))])
        assert made is not None
        self.rows.append(made)
        self.states.append(_after(self.states[-1], round, made, offers))

    def _offers(self, before: Position, round: int) -> list[Offered]:
        keys: list[Identity] = sorted(
            (key for key in KEYS if key.peer_id in before.electorate.by_member), key=lambda key: key.peer_id
        )
        return [
            offer(key, ID, round, ((31 * round) % 900 + place).to_bytes(8, "little")) for place, key in enumerate(keys)
        ]


def _after(state: ToyState, round: int, made: Made, offers: list[Offered]) -> ToyState:
    shares = [
        Applied(round, each.member, each.contribution.samples, part.weight, round - 1, BytesReader(_payload(each)))
        for each, part in zip(offers, made.parts, strict=True)
    ]
    return METHOD.apply(state, shares)[0] if shares else state


def _payload(offered: Offered) -> bytes:
    payload = offered.contribution.payload
    assert isinstance(payload, bytes)
    return payload


def folder(data_dir: Path) -> SwarmFolder:
    folder = SwarmFolder(data_dir / "swarms", ID)
    folder.create(sign_spec(SPEC, ANN), Membership())
    return folder


def on_disk(data_dir: Path, trained: Trained, *, rows: slice = slice(None), since: int = 0) -> Path:
    """The node's data directory; where it came by an invite that named the record of round `since`, its log begins
    there.
    """
    rounds = folder(data_dir).rounds
    with Archive(rounds / LOG_NAME, ORIGIN) as archive:
        if since:
            part = Written(ID, ORIGIN, trained.log.keeps[:since])
            archive.leap(Proof(trained.log.anchor(since), ()), part.position)
        archive.append(trained.log.keeps[since:])
    with History(rounds / HISTORY_NAME, ID) as history:
        history.append(trained.rows[rows])
    return data_dir
