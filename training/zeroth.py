"""Shared-seed zeroth-order training: a member sends one byte for each direction that it has tried.

A direction z of signs follows from (swarm, round, member, number), so everybody can make it again (directions.py). A
member takes two forward passes along it and sends the slope, (loss(theta + eps z) - loss(theta - eps z)) / (2 eps), as
a byte on a logarithmic scale (scalar_codes.py). All apply the decoded slopes, its sender too:

    theta <- theta - lr * sum over contributions of w/W * sum over its directions of slope * z / n

(MeZO, Malladi et al. 2023, arXiv 2305.17333; one byte: Zelikman et al. 2023, arXiv 2306.10015, where slopes are not
bounded and not audited, and whoever misses one drifts away.) A turn's n directions are tried at the shared state and
averaged (SPSA). Or, with `way` steps, each is a step from where the one before led; then n is 1, for what a turn adds
up to is the sum of its steps. With a `pool` the directions are some fixed ones (FedKSeed, Qin et al. 2024, arXiv
2312.06353), and the state is what was summed up along each.

`apply` gives the same bits everywhere: coefficients are quotients of integers, rounded once, times constants; the rest
is directions.py. What a malicious peer may send: any bytes of up to `directions` codes. `check` refuses what is no
code, and samples that do not stand behind them; what is claimed beyond `bound` times what is usual is cut (slopes.py);
that it was made up the others find by computing some of it again (`audit`), where the samples are public.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from blake3 import blake3

from shoal.transport.port import PeerId
from shoal.transport.wire import encode

from . import checkpoint, importance, slopes, zeroth_state
from .checkpoint import Local
from .codecs import TINY, flush_tiny, spans
from .directions import step
from .importance import History
from .method import Share, Start, Turn, Work
from .pace import StepRange, expected_step_s, has_time
from .ports import BlobReader, Payload
from .scalar_codes import LARGEST, MAGNITUDES, decoded, signed
from .scalar_codes import encode as coded
from .spec import Spec, swarm_id
from .tensors import Layout, element_count
from .tried import Claims, Place, TurnName, drawn, fault, open_claims, payload
from .weights import Walk, walks
from .zeroth_settings import ZerothSettings
from .zeroth_state import Base, Pool, State

if TYPE_CHECKING:
    import numpy as np

    from .tensors import Vector
    from .zeroth_state import Sums

    Array = TypeVar("Array", Vector, Sums)

UNIT: Final = 2**12  # of a pool's coefficients: so many are the smallest slope
STEPS_TOLERATED: Final = 2  # of the codes, between a claim and what another machine computes
NOISE: Final = 2.0**-18  # of a mean loss, relatively, between instruction sets; bench/spread.py found 2^-18.5 at most
DIRECTION_S: Final = 3e-5  # to make one, and start on its tensors
PARAMETER_S: Final = 5e-10  # to move one along it


_AUDIT_DOMAIN: Final = b"shoal/audit/1\0"


class Evaluator(Protocol):
    """A model, its data, and forward passes."""

    @property
    def layout(self) -> Layout:
        """Of what is trained."""
        ...

    def start(self) -> "Vector":
        """(n,) Its first values, the same bits on every machine; each time anew."""
        ...

    def room(self) -> "Vector":
        """(n,) For values yet to be written. Where they are many, in a file, lest each copy take memory."""
        ...

    def losses(self, parameters: "Vector", key: bytes, scale: "np.float32", seed: int) -> tuple[float, float]:
        """The mean losses at parameters + scale z and parameters - scale z, over the samples that `seed` draws.

        `key` is that of z. `parameters` stays as it is.
        """
        ...

    def evaluate(self, parameters: "Vector") -> Mapping[str, float]: ...

    def generate(self, parameters: "Vector", prompt: bytes, count: int, temperature: float, seed: int) -> bytes | str:
        """Bytes that continue `prompt`, or why this model writes none."""
        ...


@dataclass(frozen=True, slots=True)
class _Claimed:
    """A contribution's slopes."""

    turn: TurnName
    claims: Claims
    weight: int

    @property
    def walk(self) -> Walk:
        return PeerId(self.turn.member), self.turn.base_round


class Zeroth:
    """The method (method.py) for one swarm. Holds no state but its arguments and, with a pool, the base model."""

    def __init__(self, spec: Spec, settings: ZerothSettings, evaluator: Evaluator) -> None:
        self._spec = spec
        self._swarm = swarm_id(spec)
        self._settings = settings
        self._evaluator = evaluator
        self._layout = evaluator.layout
        self._base: Base | None = None

    def start(self, spec: Spec) -> tuple[State, Local]:
        """Round 0. Where the spec fixes the first state's digest and this is another, fetch it: see `start_digest`."""
        import numpy as np

        size = self._settings.pool
        first = self._evaluator.start()
        for start, stop in spans(len(first)):
            flush_tiny(first[start:stop])
        _frozen(first)
        if not size:
            return State(0, first, slopes.NONE), Local()
        pool = Pool((0,) * size, importance.beginning(size), _frozen(np.zeros(len(first), np.int64)))
        return State(0, first, slopes.NONE, pool), Local()

    def start_digest(self, spec: Spec) -> bytes | None:
        """The digest of the state of round 0 that the spec fixes, if it does: members that differ fetch that state."""
        return bytes.fromhex(self._settings.start) or None

    def restart(self, state: State) -> State:
        """Round 0 of a swarm that goes on from where another of the same model stood. It has no pool (settings)."""
        return State(0, state.parameters, slopes.NONE)

    def contribute(self, state: State, local: Local, turn: Turn) -> Work[Local]:
        """Try directions until the turn has had its number or its time."""
        import numpy as np

        settings = self._settings
        counts = StepRange(1, settings.directions, settings.directions)
        started_at = turn.clock()
        at, tried, codes, losses = state.parameters, list[Place](), bytearray(), list[float]()
        name = TurnName(self._swarm, turn.round, turn.base_round, turn.member)
        for place in drawn(name, _history(state), settings.directions):
            if not has_time(counts, len(codes), started_at, turn.clock(), turn.deadline_at, local.step_s):
                break
            if codes and turn.is_over():
                break
            plus, minus = self._evaluator.losses(at, place.key, np.float32(settings.epsilon), place.seed)
            tried.append(place)
            codes.append(self._code(plus, minus))
            losses.append((plus + minus) / 2)
            if settings.way == "steps":
                at = self._stepped(state, at, place, codes[-1])
        step_s = expected_step_s(len(codes), turn.clock() - started_at, local.step_s)
        metrics = {"directions": float(len(codes)), "loss": sum(losses) / len(losses)}
        samples = len(codes) * settings.batch_size
        return Work((payload(tried, bytes(codes)),), samples, Local(None, step_s), metrics)

    def check(self, spec: Spec, turn_round: int, member: str, samples: int, payload: BlobReader) -> str | None:
        """Exact and equal everywhere: a function of the spec and the payload's bytes."""
        settings = self._settings
        wrong = fault(payload, settings.directions, settings.pool)
        if wrong is not None:
            return wrong
        count = len(open_claims(payload, settings.pool).codes)
        if samples != count * settings.batch_size:
            return f"claims {samples} samples for {count} slopes of {settings.batch_size} each"
        return None

    def apply(self, state: State, shares: Sequence[Share]) -> tuple[State, Mapping[str, float]]:
        """One step along all directions; where no share has any weight only the round's number moves."""
        claimed = [self._claimed(share) for share in sorted(shares, key=_order) if share.weight]
        codes = b"".join(each.claims.codes for each in claimed)
        recent = slopes.remembered(state.recent, _walked(claimed))
        limit = slopes.largest(recent, self._settings.bound)
        evidence = {
            "contributions": float(len(claimed)),
            "directions": float(len(codes)),
            "cut": float(sum(code & LARGEST > limit for code in codes)),
        }
        if not claimed:
            return State(state.round + 1, state.parameters, recent, state.pool), evidence
        if state.pool is not None:
            return self._apply_pooled(state, state.pool, claimed, recent, limit), evidence
        return self._apply_fresh(state, claimed, recent, limit), evidence

    def replay_s(self, contributions: int) -> float:
        """About how long it takes to go along all their directions, at the speeds in docs/performance.md."""
        each = DIRECTION_S + PARAMETER_S * element_count(self._layout)
        return contributions * self._settings.directions * each

    def settle(self, local: Local, state: State, taken: bool) -> Local:
        """A member keeps nothing but its pace."""
        return local

    @property
    def is_auditing(self) -> bool:
        return self._settings.audit == "public"

    @property
    def wants_starts(self) -> bool:
        """Slopes are tried from the shared state."""
        return False

    def can_audit(self, share: Share) -> bool:
        return self.is_auditing

    def is_audited(self, share: Share, seed: bytes, judge: str, contributors: int) -> bool:
        """Equal on all members."""
        return bool(self._picked(share, seed))

    def audit(self, state: State, start: Start | None, share: Share, seed: bytes) -> float | None:
        """Which part of its slopes, of those that `seed` picks, is what comes out here; None if it picks none."""
        picked = self._picked(share, seed)
        if not picked:
            return None
        claimed, at, true = self._claimed(share), state.parameters, 0
        codes, places = claimed.claims.codes, claimed.claims.places(claimed.turn)
        honest = drawn(claimed.turn, _history(state), len(codes))
        for number, (place, own, code) in enumerate(zip(places, honest, codes, strict=True)):
            true += number in picked and place == own and self._holds(at, place, code)
            if number == picked[-1]:
                break
            if self._settings.way == "steps":
                at = self._stepped(state, at, place, code)
        return true / len(picked)

    def is_evaluated(self, round: int) -> bool:
        return round % self._settings.evaluate_rounds == 0 or round == self._spec.rounds_max

    def evaluate(self, state: State) -> Mapping[str, float]:
        return self._evaluator.evaluate(state.parameters)

    def generate(self, state: State, prompt: bytes, count: int, temperature: float, seed: int) -> bytes | str:
        """Bytes that continue `prompt`, or why this model writes none."""
        return self._evaluator.generate(state.parameters, prompt, count, temperature, seed)

    def digest(self, state: State) -> bytes:
        return zeroth_state.digest(state, self._layout)

    def save(self, state: State) -> Iterable[Payload]:
        return zeroth_state.save(state, self._layout)

    def load(self, saved: BlobReader) -> State:
        size = self._settings.pool
        base = self._pool_base() if size else None
        return zeroth_state.load(saved, self._layout, size, base, self._evaluator.room)

    def save_local(self, local: Local) -> Iterable[Payload]:
        return checkpoint.save_local(local, self._layout)

    def load_local(self, saved: BlobReader) -> Local:
        return checkpoint.load_local(saved, self._layout)

    def _apply_fresh(self, state: State, claimed: Sequence[_Claimed], recent: slopes.Recent, limit: int) -> State:
        terms = [
            (place.key, self._coefficient(slopes.bounded(code, limit), weight, total))
            for each, weight, total in self._parts(claimed)
            for place, code in zip(each.claims.places(each.turn), each.claims.codes, strict=True)
        ]
        parameters = self._evaluator.room()
        step(state.parameters, self._layout, terms, parameters)
        return State(state.round + 1, _frozen(parameters), recent)

    def _apply_pooled(
        self, state: State, pool: Pool, claimed: Sequence[_Claimed], recent: slopes.Recent, limit: int
    ) -> State:
        increments, tried = dict[int, int](), list[tuple[int, int]]()
        for each, weight, total in self._parts(claimed):
            for index, code in zip(each.claims.pooled or (), each.claims.codes, strict=True):
                cut = slopes.bounded(code, limit)
                slope = signed(cut)
                size = abs(slope) * weight * UNIT // (total * MAGNITUDES[1])
                increments[index] = increments.get(index, 0) + (size if slope > 0 else -size)
                tried.append((index, cut & LARGEST))
        if sum(map(abs, (*pool.coefficients, *increments.values()))) > zeroth_state.SUM_MAX:
            increments = {}  # after 2^20 rounds of the steepest slopes: no further
        coefficients = list(pool.coefficients)
        for index, increment in increments.items():
            coefficients[index] += increment
        base, sums = self._pool_base(), pool.sums.copy()
        base.add(sums, sorted(increments.items()))
        found = Pool(tuple(coefficients), pool.history.with_claims(tried), _frozen(sums))
        return State(state.round + 1, base.moved(sums), recent, found)

    def _parts(self, claimed: Sequence[_Claimed]) -> Iterator[tuple[_Claimed, int, int]]:
        """Each with a weight, and what slope times weight is to be divided by.

        Its own weight, not its walk's: one slope that is made up, in the walk of a whole turn, would move the state by
        as much as eight, and be audited as seldom as one.
        """
        total = sum(walks((each.walk, each.weight) for each in claimed).values())
        for each in claimed:
            count = len(each.claims.codes) if self._settings.way == "average" else 1
            yield each, each.weight, total * count

    def _coefficient(self, code: int, weight: int, total: int) -> "np.float32":
        """Of one direction: -lr * slope * weight / total. The quotient of integers is rounded once, as is the rest."""
        import numpy as np

        unit = math.ldexp(self._settings.lr, self._settings.origin - 16)
        value = -unit * (signed(code) * weight / total)
        return np.float32(value if abs(value) >= TINY else 0.0)

    def _stepped(self, state: State, at: "Vector", place: Place, code: int) -> "Vector":
        """Where one step along a direction leads, alone. All but the first, which leaves the state, are in place."""
        after = self._evaluator.room() if at is state.parameters else at
        step(at, self._layout, [(place.key, self._coefficient(code, 1, 1))], after)
        return after

    def _holds(self, at: "Vector", place: Place, code: int) -> bool:
        """Whether a claimed slope is what comes out here, within what machines differ by."""
        import numpy as np

        epsilon, origin = self._settings.epsilon, self._settings.origin
        plus, minus = self._evaluator.losses(at, place.key, np.float32(epsilon), place.seed)
        claim, own = decoded(code, origin), decoded(self._code(plus, minus), origin)
        ratio = MAGNITUDES[1] / MAGNITUDES[1 + STEPS_TOLERATED]
        steps = max(abs(claim), abs(own)) * (1 - ratio) * (1 + 2.0**-10)  # the table's own rounding
        noise = 4 * NOISE * (abs(plus) + abs(minus)) / (2 * epsilon)
        return abs(claim - own) <= max(steps, noise, 2.0**origin)

    def _code(self, plus: float, minus: float) -> int:
        slope = (plus - minus) / (2 * self._settings.epsilon)
        return coded(slope, self._settings.origin) if abs(slope) < float("inf") else 0

    def _picked(self, share: Share, seed: bytes) -> list[int]:
        """Which of its slopes are computed again, in order: of few as many as of a whole turn's, or there would be none
        to find out who sends a slope a turn.
        """
        if self._settings.audit == "private":
            return []
        count = len(self._claimed(share).claims.codes)
        limit = int(self._settings.audit_share * 2**32) * self._settings.directions // count
        name = _AUDIT_DOMAIN + encode((seed, share.member, share.turn_round, share.base_round))
        raw = blake3(name).digest(4 * count)
        return [each for each in range(count) if int.from_bytes(raw[4 * each : 4 * each + 4], "little") < limit]

    def _claimed(self, share: Share) -> _Claimed:
        turn = TurnName(self._swarm, share.turn_round, share.base_round, share.member)
        return _Claimed(turn, open_claims(share.payload, self._settings.pool), share.weight)

    def _pool_base(self) -> Base:
        """Made when it is first needed."""
        if self._base is None:
            first = self.start(self._spec)[0].parameters
            factor = math.ldexp(self._settings.lr, self._settings.origin) / UNIT
            self._base = Base(self._swarm, self._layout, first, factor)
        return self._base


def _order(share: Share) -> tuple[str, int, int]:
    return share.member, share.turn_round, share.base_round


def _walked(claimed: Sequence[_Claimed]) -> list[tuple[int, bytes]]:
    """The weight of each walk, and all codes of its contributions."""
    codes = dict[Walk, bytes]()
    for each in claimed:
        codes[each.walk] = codes.get(each.walk, b"") + each.claims.codes
    weights = walks((each.walk, each.weight) for each in claimed)
    return [(weights[walk], each) for walk, each in codes.items()]


def _history(state: State) -> History | None:
    return None if state.pool is None else state.pool.history


def _frozen(array: "Array") -> "Array":
    array.flags.writeable = False
    return array
