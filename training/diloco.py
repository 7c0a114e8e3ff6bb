"""DiLoCo (Douillard et al. 2023, arXiv 2311.08105): many inner AdamW steps alone, then one outer Nesterov step
together.

Each round every member starts from the shared parameters, the anchor, trains for a while, and contributes the
pseudo-gradient anchor - local. Where no round can be closed it goes on from where it is, and contributes what it did
since. All apply the mean of what the round took, or what another rule makes of it (aggregating.py), where a member's
contributions from one state are one walk that they add up to (each counted by itself, three turns of everybody came to
no more than one; docs/decisions.md):

    momentum  <- mu * momentum + mean
    parameters <- parameters - lr * (mean + mu * momentum)

`apply` gives the same bits everywhere because each line above is a chain of elementwise float32 operations with one
rounding each (torch.optim.SGD fuses some of them and differs between instruction sets), and because nothing denormal
ever enters or leaves it (codecs.TINY). It is numpy, piece by piece, on as many threads as the sweep has: no torch, and
no memory to speak of beyond the new state.

What a malicious peer may send: see payload.py. What passes `check` is finite and bounded, so the state stays finite;
what a bad step among them does depends on the rule.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from shoal.transport.wire import Malformed

from . import checkpoint
from .aggregating import Room, Scaled, Take, Terms, attested, carried_out, trusted_mean
from .checkpoint import Local, State
from .codecs import flush_tiny, spans
from .comparing import Gain
from .diloco_settings import DilocoSettings
from .evidence import NOTHING, Evidence, Testimony
from .local_trainer import Examines, LocalTrainer
from .method import Share, Start, Turn, Work
from .payload import VALUE_MAX, Delta, check_values, open_payload, write_payload
from .ports import BlobReader, BytesReader, Payload
from .records import turn_seed
from .remembered import EMPTY, Remembered, sighted
from .replayed_turn import can_be_replayed, is_drawn, is_same, is_sound
from .rows import Sweep, Weighted, fitting, one_by_one
from .rules import attackers_most
from .spare import Spare
from .spec import Spec, swarm_id
from .tensors import Layout, element_count
from .walks import Contributor, Walk

if TYPE_CHECKING:
    from .tensors import Vector

STATE_VALUE_MAX = 2.0**60  # 2^20 rounds of the largest step, 1024 contributions of one member, stay below it


class Diloco:
    """The method (method.py) for one swarm. Holds no state but its arguments, and memory to write states into."""

    def __init__(self, spec: Spec, settings: DilocoSettings, trainer: LocalTrainer, sweep: Sweep = one_by_one) -> None:
        self._spec = spec
        self._settings = settings
        self._trainer = trainer
        self._layout = trainer.layout
        self._sweep = sweep
        self._spare = Spare(2)  # one state's

    def start(self, spec: Spec) -> tuple[State, Local]:
        """Round 0. Where the spec fixes the first state's digest and this is another, fetch it: see `start_digest`."""
        import numpy as np

        parameters = _frozen(flush_tiny(np.array(self._trainer.start(), np.float32)))
        return State(0, parameters, _frozen(np.zeros(len(parameters), np.float32))), Local()

    def start_digest(self, spec: Spec) -> bytes | None:
        """The digest of the state of round 0 that the spec fixes, if it does: members that differ fetch that state.

        Specs of models that people bring themselves do (their first values come from the creator's machine), and those
        of swarms that go on from another's state (`restart`).
        """
        return bytes.fromhex(self._settings.start) or None

    def restart(self, state: State) -> State:
        """Round 0 of a swarm that goes on from where another of the same model stood.

        With its momentum: that is as much a part of what the old swarm has learned, and who wants none of it sets
        `outer_momentum` to 0.
        """
        return State(0, state.parameters, state.momentum)

    def contribute(self, state: State, local: Local, turn: Turn) -> Work[Local]:
        """Train and encode the pseudo-gradient.

        A member whose training diverged has no samples, an empty payload (which `check` would refuse) and a fresh
        optimizer: there is nothing to contribute. Nor has one whose further turn from a state nobody could do again.

        What the codec lost of earlier contributions from the same state is not made up for: each of them may be taken
        without the others, and stands for its own steps alone.
        """
        return self._worked(state, local, turn)

    def _worked(self, state: State, local: Local, turn: Turn) -> Work[Local]:
        if self.is_auditing and is_further(turn.round, turn.base_round):
            return Work((), 0, local, {})  # it would count nothing
        start = state.parameters if local.ahead is None else self._minus(state.parameters, local.ahead)
        trained = self._trainer.train(start, local, turn)
        local = replace(local, moments=trained.moments, step_s=trained.step_s)
        if self.is_auditing and not turn.has_contributed:
            local = replace(local, momentum=None)  # others see in the round before what it has to be
        if not trained.samples:
            return Work((), 0, local, trained.metrics)
        done = _part_ways(state.parameters, start, trained.parameters)
        if done is None:
            return Work((), 0, replace(local, moments=None), {**trained.metrics, "diverged": 1.0})
        delta, ahead = done
        momentum = self._own_momentum(local.momentum, delta)
        samples = min(trained.samples, self._spec.samples_max)
        payload = write_payload(self._settings.codec, self._layout, delta if momentum is None else momentum)
        return Work(payload, samples, replace(local, ahead=ahead, momentum=momentum), trained.metrics)

    def check(self, spec: Spec, turn_round: int, member: str, samples: int, payload: BlobReader) -> str | None:
        """Exact and equal everywhere: a function of the spec and the payload's bytes."""
        if not 1 <= samples <= spec.samples_max:
            return f"claims {samples} samples; the spec allows 1 to {spec.samples_max}"
        steps, rest = divmod(samples, self._settings.batch_size)
        if self.is_auditing and (rest or steps > self._settings.step_range().most):
            return f"claims {samples} samples; a turn has {self._settings.batch_size} for each of its steps"
        if payload.size > spec.payload_bytes_max:
            return f"payload of {payload.size} bytes; the spec allows {spec.payload_bytes_max}"
        delta = open_payload(payload, self._settings.codec, self._layout)
        problem = delta if isinstance(delta, Malformed) else check_values(delta)
        return problem.reason if problem else None

    def apply(self, state: State, shares: Sequence[Share]) -> tuple[State, Mapping[str, float]]:
        """One outer step; where no voter's share has any weight only the round's number moves."""
        taken = [share for share in shares if share.weight]
        stale = sum(share.base_round < state.round for share in taken)
        figures = {"contributions": float(len(taken)), "stale": float(stale)}
        contributors = self._contributors(shares)
        voters = [each.member for each in contributors if each.is_voter and each.walks]
        if not voters:
            return self._passed(state, len(contributors)), figures
        vectors = self._spare.vector(len(state.parameters)), self._spare.vector(len(state.parameters))
        room = Room(fitting(self._sweep, len(shares)), vectors)
        step = self._step(state, room)
        if self._settings.is_trusting:
            carried_out(trusted_mean(contributors, room), room, step)
            remembered = EMPTY
        else:
            seen = sighted(state.remembered.voters, state.round + 1, voters)
            testimony = attested(contributors, self._terms(state, len(seen)), state.remembered.testimony, room, step)
            remembered = Remembered(seen, testimony)
        parameters, momentum = map(_frozen, vectors)
        return State(state.round + 1, parameters, momentum, remembered), figures

    def evidence(self, state: State) -> tuple[Evidence, ...]:
        """None where the settings trust everybody."""
        return state.remembered.testimony.evidence

    def settle(self, local: Local, state: State, taken: bool) -> Local:
        """The optimizer's moments as they are after the turn, taken or not; nothing that is ahead of the new state.

        The paper never synchronizes them. When a contribution is not taken the parameters go back to the anchor, yet
        the moments are statistics of gradients within one round's walk from it, with memories of 10 and 20 steps: those
        after the turn describe the anchor's surroundings no worse than those before it, while starting afresh costs a
        round of badly scaled first steps. torchft keeps them as well (local_sgd.py restores parameters alone). So does
        the member's own momentum: it is a mean of what many turns have come to. But where turns are done again it
        starts from 0 after one that was not taken, for the others do not see that one.
        """
        is_seen = taken or not self.is_auditing
        return replace(local, ahead=None, momentum=local.momentum if is_seen else None)

    @property
    def is_auditing(self) -> bool:
        return self._settings.audit == "public"

    @property
    def wants_starts(self) -> bool:
        return self.is_auditing

    def can_audit(self, share: Share) -> bool:
        return self.is_auditing and can_be_replayed(share)

    def is_audited(self, share: Share, seed: bytes, judge: str, contributors: int) -> bool:
        """Each judge draws for itself, half of what it does again."""
        return self.can_audit(share) and is_drawn(share, seed, judge, self._settings.audit_share / 2, contributors)

    @property
    def compared_share(self) -> float:
        """The other half."""
        return self._settings.audit_share / 2

    def gain(self, state: State, share: Share, members: tuple[str, ...], seed: bytes) -> Gain | None:
        import numpy as np

        delta = open_payload(share.payload, self._settings.codec, self._layout)
        if not isinstance(self._trainer, Examines) or not self.can_audit(share) or isinstance(delta, Malformed):
            return None
        moved = np.empty_like(state.parameters)
        for start, stop in spans(len(moved)):
            np.subtract(state.parameters[start:stop], delta.values(start, stop), out=moved[start:stop])
        turn = self._turn_again(share, members)
        return self._trainer.gain(state.parameters, moved, turn, int.from_bytes(seed[:8], "big"))

    def audit(self, state: State, start: Start | None, share: Share, seed: bytes) -> float | None:
        """Whether the whole turn comes out the same, 1 or 0; None if it cannot be done again.

        Takes as long as the turn took, and as much memory. Changes nothing that this member's own turns work with.
        """
        if start is None or not self.can_audit(share):
            return None
        try:
            local = self.load_local(start.local)
        except ValueError:
            return 0.0
        if not self._is_start(local, start.before):
            return 0.0
        turn = replace(self._turn_again(share, start.members), has_contributed=start.before is not None)
        work = self._worked(state, local, turn)
        vector = work.local.ahead if work.local.momentum is None else work.local.momentum
        if not work.samples or vector is None:
            return 0.0
        payload = BytesReader(b"".join(work.payload))
        return float(self._stands_for(share.payload, vector, payload))

    def evaluate(self, state: State) -> Mapping[str, float]:
        return self._trainer.evaluate(state.parameters)

    def generate(self, state: State, prompt: bytes, count: int, temperature: float, seed: int) -> bytes | str:
        """Bytes that continue `prompt`, or why this model writes none."""
        return self._trainer.generate(state.parameters, prompt, count, temperature, seed)

    def digest(self, state: State) -> bytes:
        return checkpoint.state_digest(state, self._layout)

    def save(self, state: State) -> Iterable[Payload]:
        return checkpoint.save_state(state, self._layout)

    def load(self, saved: BlobReader) -> State:
        return checkpoint.load_state(saved, self._layout, STATE_VALUE_MAX)

    def save_local(self, local: Local) -> Iterable[Payload]:
        return checkpoint.save_local(local, self._layout)

    def load_local(self, saved: BlobReader) -> Local:
        return checkpoint.load_local(saved, self._layout)

    def _turn_again(self, share: Share, members: tuple[str, ...]) -> Turn:
        places = share.turn_round, share.base_round, share.member
        seed, steps = turn_seed(swarm_id(self._spec), *places), share.samples // self._settings.batch_size
        return Turn(*places, members, seed, math.inf, lambda: 0.0, lambda: False, steps=steps)

    def _is_start(self, local: Local, before: BlobReader | None) -> bool:
        """Whether an honest member can have come to it, whose newest payload in the round before was this."""
        if local.ahead is not None or not (local.moments is None or is_sound(local.moments, self._settings)):
            return False
        if local.momentum is None or before is None:  # without one before it is not used
            return True
        coded = BytesReader(b"".join(write_payload(self._settings.codec, self._layout, local.momentum)))
        return self._stands_for(before, local.momentum, coded)

    def _stands_for(self, payload: BlobReader, vector: "Vector", coded: BlobReader) -> bool:
        """Whether a payload that was checked is what honest members send of `vector`, (n,), which here is `coded`."""
        deltas = [open_payload(each, self._settings.codec, self._layout) for each in (payload, coded)]
        claimed, own = (each for each in deltas if not isinstance(each, Malformed))
        return is_same(claimed, vector, own, self._settings.audit_tolerance)

    def _own_momentum(self, before: "Vector | None", delta: "Vector") -> "Vector | None":
        """(n,) m <- b m + (1 - b) delta, from 0 on; None where the settings have it that there is none.

        What a member contributes is then a mean of many rounds: honest members differ less, so that less hides among
        them (Karimireddy et al. 2021, arXiv 2012.10333). It takes the place of the outer optimizer's.
        """
        import numpy as np

        beta = np.float32(self._settings.worker_momentum)
        if not beta:
            return None
        momentum = np.zeros_like(delta) if before is None else before.copy()
        for start, stop in spans(len(delta)):
            momentum[start:stop] *= beta
            momentum[start:stop] += (1 - beta) * delta[start:stop]
        return _frozen(momentum)

    def _minus(self, parameters: "Vector", ahead: "Vector") -> "Vector":
        """(n,) parameters - ahead, in the memory that waits for the next state: while none comes it is free."""
        import numpy as np

        return np.subtract(parameters, ahead, out=self._spare.vector(len(parameters)))

    def _contributors(self, shares: Sequence[Share]) -> list[Contributor]:
        """Sorted by member. A walk weighs as much as its weightiest contribution: more turns are no more members.

        Where turns are done again further ones from one state count nothing: nobody can say where they started.
        """
        voters: dict[str, bool] = {}
        walks: dict[tuple[str, int], tuple[int, list[Delta]]] = {}
        for share in sorted(shares, key=lambda share: (share.member, share.turn_round, share.base_round)):
            voters[share.member] = share.is_voters
            if not share.weight or (self.is_auditing and is_further(share.turn_round, share.base_round)):
                continue
            delta = open_payload(share.payload, self._settings.codec, self._layout)
            if isinstance(delta, Malformed):
                raise ValueError(f"a payload that was never checked: {delta.reason}")
            weight, deltas = walks.setdefault((share.member, share.base_round), (0, []))
            walks[share.member, share.base_round] = max(weight, share.weight), [*deltas, delta]
        found = {member: list[Weighted]() for member in voters}
        for (member, _), (weight, deltas) in walks.items():
            found[member].append(Weighted(Walk(tuple(deltas)), weight))
        return [Contributor(member, is_voter, tuple(found[member])) for member, is_voter in voters.items()]

    def _passed(self, state: State, contributors: int) -> State:
        """After a round that moved nothing."""
        remembered = EMPTY
        if not self._settings.is_trusting:
            seen = sighted(state.remembered.voters, state.round + 1, ())
            sketches = state.remembered.testimony.sketches
            remembered = Remembered(seen, Testimony((NOTHING,) * contributors, sketches))
        return State(state.round + 1, state.parameters, state.momentum, remembered)

    def _terms(self, state: State, voters: int) -> Terms:
        import numpy as np

        rule, share = self._settings.rule, self._settings.attackers
        f = attackers_most(rule, share, min(voters, self._spec.members_max))
        # In the long run the outer momentum is 1 / (1 - mu) times the aggregate.
        return Terms(rule, f, Scaled(state.momentum, 1 - np.float32(self._settings.outer_momentum)))

    def _step(self, state: State, room: Room) -> Take:
        """Writes the next parameters and momentum into the room's vectors, for a piece of the aggregate."""
        import numpy as np

        lr, mu = np.float32(self._settings.outer_lr), np.float32(self._settings.outer_momentum)
        parameters, momentum = room.vectors

        def step(start: int, stop: int, along: "Vector") -> None:
            moved = np.multiply(state.momentum[start:stop], mu, out=momentum[start:stop])
            moved += along
            to = np.multiply(flush_tiny(moved), mu, out=parameters[start:stop])
            to += along
            to *= lr
            flush_tiny(np.subtract(state.parameters[start:stop], to, out=to))

        return step


def is_further(turn_round: int, base_round: int) -> bool:
    """Whether a turn is none of the first that a member may have made from its state."""
    return turn_round > base_round + 1


def start_setting(first: "Vector", layout: Layout) -> str:
    """The `start` setting for a spec whose first parameters are these: the digest of round 0 in hex."""
    import numpy as np

    parameters = flush_tiny(np.array(first, np.float32))
    state = State(0, parameters, np.zeros(element_count(layout), np.float32))
    return checkpoint.state_digest(state, layout).hex()


def _part_ways(anchor: "Vector", start: "Vector", trained: "Vector") -> "tuple[Vector, Vector] | None":
    """(n,) start - trained and (n,) anchor - trained; None if the first is not what `check_values` lets through.

    In place and piece by piece: a large vector's fresh pages cost more than the subtraction. The first takes the memory
    of `trained`, the second that of `start`; where `start` is the anchor itself both are one vector.
    """
    import numpy as np

    with np.errstate(all="ignore"):
        for begin, stop in spans(len(trained)):
            piece, start_piece = trained[begin:stop], start[begin:stop]
            ahead = None if start is anchor else np.subtract(anchor[begin:stop], piece)
            np.subtract(start_piece, piece, out=piece)
            if not np.abs(piece).max(initial=0) <= VALUE_MAX:  # also false for NaN
                return None
            if ahead is not None:
                start_piece[:] = ahead
    delta = _frozen(trained)
    return delta, delta if start is anchor else _frozen(start)


def _frozen(vector: "Vector") -> "Vector":
    vector.flags.writeable = False
    return vector
