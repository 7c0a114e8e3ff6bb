"""Makes of an honest method one that attacks: what it contributes is forged (adversaries.py), all else it does well.

Who collude know of one another. They contribute last: they wait until they have seen what the honest members contribute
to the round, as far as that comes in time.
"""

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from blake3 import blake3

from shoal.training.diloco_settings import parse_settings
from shoal.training.method import Audits, Share, Start, Turn, Work
from shoal.training.models import SIZES, gpt_layout
from shoal.training.payload import open_payload, write_payload
from shoal.training.ports import BlobReader, BytesReader
from shoal.training.spec import Spec
from shoal.transport.wire import Malformed

from .adversaries import CLAIMED, ON_SLOPES, ON_VALUES, ForgeCodes, Sight
from .attacking import SYBIL
from .role import Role
from .swarms import AnyMethod

if TYPE_CHECKING:
    from shoal.training.tensors import Layout, Vector

KNOWING: Final = frozenset({"copy", "alie", "alie1.5", "ipm0.5", "ipm10", "mimic"})  # who need to see others' rows
LOOK_S: Final = 0.2  # how often it is looked whether a round is over
SLACK_S: Final = 1.0  # before the deadline, for what is sent last to be in time


def turned(method: AnyMethod, worker: AnyMethod, spec: Spec, role: Role) -> AnyMethod:
    """`method`, which from now on attacks as its role says; all else it does as members do, judging others, too.

    Its functions are replaced one by one, not hidden behind another object: whether it audits, evaluates seldom or
    writes text is asked of the method itself. What it contributes `worker` makes, another one like it.
    """
    own = vars(method)
    kind = "signflip" if role.kind == SYBIL else role.kind
    if kind == "judge":
        if isinstance(method, Audits):
            own["audit"] = Judge(method).audit
    elif kind == "slow":
        own["contribute"] = Late(worker).contribute
    elif spec.method == "zeroth":
        own["contribute"] = Slopes(worker, ON_SLOPES[kind]).contribute
    elif kind in ON_VALUES:
        rows = Rows(worker, spec, kind, role.colluding)
        own["contribute"], own["check"] = rows.contribute, rows.check
    else:
        own["contribute"] = worker.contribute
    return method


class Judge:
    """Turns its opinions around."""

    def __init__(self, method: Audits) -> None:
        self._audit = method.audit

    def audit(self, state: Any, start: Start | None, share: Share, seed: bytes) -> float | None:
        opinion = self._audit(state, start, share, seed)
        return None if opinion is None else 1.0 - opinion


class Late:
    """Works as the others do, and holds it back."""

    def __init__(self, method: AnyMethod) -> None:
        self._contribute = method.contribute
        self._never = threading.Event()

    def contribute(self, state: Any, local: Any, turn: Turn) -> Work[Any]:
        work = self._contribute(state, local, turn)
        while not turn.is_over() and turn.clock() < turn.deadline_at - SLACK_S:
            self._never.wait(LOOK_S)
        return work


class Slopes:
    """Makes slopes up."""

    def __init__(self, method: AnyMethod, forge: ForgeCodes) -> None:
        self._contribute = method.contribute
        self._forge = forge
        self._first = b""

    def contribute(self, state: Any, local: Any, turn: Turn) -> Work[Any]:
        work = self._contribute(state, local, turn)
        codes = b"".join(work.payload)
        self._first = self._first or codes
        random = blake3(turn.seed.to_bytes(8, "big")).digest(len(codes))
        return replace(work, payload=(self._forge(codes, self._first, random),))


class Rows:
    """Sends other rows than it found."""

    def __init__(self, method: AnyMethod, spec: Spec, kind: str, colluding: Collection[str]) -> None:
        self._contribute, self._check = method.contribute, method.check
        self._spec = spec
        self._kind = kind
        self._colluding = frozenset(colluding)
        self._first: Vector | None = None
        self._seen: dict[str, tuple[int, Vector]] = {}  # of each honest member the newest: its round, its row
        self._news = threading.Condition()

    def check(self, spec: Spec, turn_round: int, member: str, samples: int, payload: BlobReader) -> str | None:
        """As any member does, and remembers it."""
        wrong = self._check(spec, turn_round, member, samples, payload)
        if wrong is None and self._kind in KNOWING and member not in self._colluding:
            with self._news:
                self._seen[member] = turn_round, self._row(payload)
                self._news.notify_all()
        return wrong

    def contribute(self, state: Any, local: Any, turn: Turn) -> Work[Any]:
        """What it found, forged; as it is where there is nothing of others to forge it from."""
        import numpy as np

        work = self._contribute(state, local, turn)
        if not work.samples:
            return work
        own = self._row(BytesReader(b"".join(work.payload)))
        self._first = own if self._first is None else self._first
        honest = self._wait_for_others(turn) if self._kind in KNOWING else [own]
        if not honest:
            return work
        with np.errstate(all="ignore"):  # codecs are not made for what is not finite
            sight = Sight(own, honest, self._first, len(self._colluding), np.random.default_rng(turn.seed))
            codec, layout = self._format
            payload = write_payload(codec, layout, ON_VALUES[self._kind](sight))
        samples = work.samples * (CLAIMED if self._kind == "samples" else 1)
        return replace(work, payload=payload, samples=min(samples, self._spec.samples_max))

    def _wait_for_others(self, turn: Turn) -> "Sequence[Vector]":
        """Of this round, sorted by member; as many as have come when time is up."""
        honest = set(turn.members) - self._colluding
        with self._news:
            while not honest <= self._of_round(turn.round).keys():
                left_s = turn.deadline_at - SLACK_S - turn.clock()
                if left_s <= 0 or turn.is_over():
                    break
                self._news.wait(min(LOOK_S, left_s))
            rows = self._of_round(turn.round)
        return [rows[member] for member in sorted(rows)]

    def _of_round(self, round: int) -> "Mapping[str, Vector]":
        return {member: row for member, (made_in, row) in self._seen.items() if made_in == round}

    @property
    def _format(self) -> "tuple[str, Layout]":
        """How rows travel in this swarm."""
        settings = parse_settings(self._spec.settings)
        assert not isinstance(settings, str), "the method was built with them"
        return settings.codec, gpt_layout(SIZES[self._spec.model])

    def _row(self, payload: BlobReader) -> "Vector":
        codec, layout = self._format
        delta = open_payload(payload, codec, layout)
        assert not isinstance(delta, Malformed), "it is the method's own, or was checked"
        return delta.values(0, delta.count)
