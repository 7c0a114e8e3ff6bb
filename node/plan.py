"""What a testnet is to run, checked before any of it is started."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from shoal.training import data as texts
from shoal.training.diloco_settings import SHORT_RUN, settings_of
from shoal.training.methods import VERSIONS, MemberOptions, zeroth_problem
from shoal.training.models import SIZES
from shoal.training.rules import rows_least
from shoal.training.sentiment import NAME as SENTIMENT
from shoal.training.spec import Spec, spec_from
from shoal.transport.identity import Identity
from shoal.transport.wire import Malformed

from .attacking import HOLDING_UP, SYBIL, refusal
from .complaint import Complaint, Exit, nearest
from .role import Role, identity_of, nonce_of

ROUND_S = 600.0  # a member is waited for so long: far longer than it takes, for a member left out breaks repeatability
GRACE_S = 10.0
HELD_UP_ROUND_S = 30.0  # where attackers hold every round up until its end
SILENCE_S = 5.0  # on a busy machine nodes take seconds to meet; who was suspended meanwhile would not be waited for
NODES_MAX = 64  # of one machine

# Where nodes are killed each of them that is missing costs a deadline. On two cores eight nodes with CHAOS_SETTINGS
# need 2 s for a round, 5 s while other programs take two thirds of the time.
CHAOS_ROUND_S, CHAOS_GRACE_S, CHAOS_SILENCE_S = 6.0, 4.0, 2.0
CHAOS_MODEL = "gpt-0.2m"
CHAOS_SETTINGS: "Settings" = {"steps": 5, "codec": "int8", "validation_windows": 4}

# For runs by forward passes alone, of some dozens of rounds (docs/performance.md).
ZEROTH_RUNS: Mapping[str, "Settings"] = {
    "smollm2-135m": {"way": "steps", "lr": 3e-3, "epsilon": 1e-2, "evaluate_rounds": 4},
    "gpt-0.2m": {
        "directions": 16,
        "batch_size": 4,
        "context": 64,
        "lr": 2e-2,
        "epsilon": 1e-3,
        "validation_windows": 16,
    },
}

Settings = Mapping[str, int | float | bool | str]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run: for so many rounds, or so many minutes; where neither is given, without an end."""

    nodes: int = 4
    rounds: int | None = 12
    minutes: float | None = None
    method: str = "diloco"
    model: str = "gpt-0.8m"
    data: str = "shakespeare"
    data_path: Path | None = None  # the file that `data` names by its hash, if it is one
    seed: int = 0
    settings: Settings = field(default_factory=dict[str, int | float | bool | str])  # of the method, over the defaults
    rules: Settings = field(default_factory=dict[str, int | float | bool | str])  # of the spec, over a testnet's
    chaos: int | None = None  # the seed of what befalls the nodes; None: nothing does
    is_at_home: bool = False  # each behind a router of its own
    adversaries: tuple[str, ...] = ()  # the kinds of the last nodes, in their order; all others are honest

    @property
    def _short_run(self) -> Settings:
        """What suits a dozen rounds: the method's own defaults are for long runs."""
        return {"diloco": SHORT_RUN, "zeroth": ZEROTH_RUNS.get(self.model, {})}.get(self.method, {})

    @property
    def loss_per(self) -> str:
        """What a validation loss is per."""
        return "sentence" if self.data == SENTIMENT else "byte"

    @property
    def span_s(self) -> float | None:
        """For how long to train; None: until the last round."""
        if self.minutes is not None:
            return self.minutes * 60
        return None if self.chaos is None else (self.rounds or 0) * CHAOS_ROUND_S

    @property
    def rounds_max(self) -> int:
        """The last round; 0: none, for who was killed might come back too late for it."""
        return self.rounds or 0 if self.chaos is None else 0

    @property
    def round_s(self) -> float:
        if not HOLDING_UP.isdisjoint(self.adversaries):
            return HELD_UP_ROUND_S
        return ROUND_S if self.chaos is None else CHAOS_ROUND_S

    def kind(self, index: int) -> str | None:
        """How node `index` attacks; None: it is honest."""
        place = index - (self.nodes - len(self.adversaries))
        return self.adversaries[place] if place >= 0 else None

    def undisturbed(self) -> "Plan":
        """The same without an end and without chaos."""
        return replace(self, chaos=None, rounds=None, minutes=None)

    def role(self, index: int) -> Role | None:
        """What node `index` is told of its attack, if it is no honest one."""
        kind, first = self.kind(index), self.nodes - len(self.adversaries)
        peers = tuple(self.identity(each).peer_id for each in range(self.nodes))
        return None if kind is None else Role(kind, self.seed, peers[first:], peers[1:first:2])

    def spec(self) -> dict[str, object]:
        """As a SPEC.toml would say it."""
        chaos = {} if self.chaos is None else {"grace_s": CHAOS_GRACE_S, "silence_s": CHAOS_SILENCE_S}
        return {
            "name": "testnet",
            "seed": self.seed,
            "method": self.method,
            "model": self.model,
            "data": self.data,
            "members_start": self.nodes,
            "members_min": min(self.nodes, rows_least(str(self.settings.get("rule", "mean")), 0)),
            "members_max": max(64, self.nodes),
            "round_s": self.round_s,
            "grace_s": GRACE_S,
            "silence_s": SILENCE_S,
            "rounds_max": self.rounds_max,
            "settings": {**self._short_run, **self.settings},
            **chaos,
            **({"admission": "open"} if SYBIL in self.adversaries else {}),
            **self.rules,
        }

    def identity(self, index: int) -> Identity:
        """The key of node `index`."""
        return identity_of(self.seed, index)

    def nonce(self) -> str:
        """What tells this swarm from others of equal settings, in hex."""
        return nonce_of(self.seed).hex()


def check(plan: Plan) -> None:
    """Refuse what all nodes would refuse, before any of them is started. Raises Complaint."""
    if importlib.util.find_spec("torch") is None:
        raise Complaint("a testnet trains with PyTorch, which is not installed here: pip install torch", Exit.MISSING)
    spec = spec_from(plan.spec(), plan.identity(0).peer_id, bytes.fromhex(plan.nonce()))
    if isinstance(spec, Malformed):
        raise Complaint(spec.reason, Exit.SPEC)
    if plan.method not in VERSIONS:
        raise Complaint(f"--method {plan.method} is not known here: {nearest(plan.method, VERSIONS)}", Exit.SPEC)
    refused = refusal(plan.adversaries, spec, is_audited=_is_audited(spec))
    if refused is not None:
        raise Complaint(refused, Exit.USAGE)
    if plan.method == "zeroth":
        problem = zeroth_problem(spec, MemberOptions(data_path=plan.data_path))
        if problem is not None:
            raise Complaint(problem, Exit.SPEC)
    else:
        _check_diloco(plan, spec)


def _is_audited(spec: Spec) -> bool:
    """Whether its members do parts of each other's work again."""
    usual = "private" if spec.method == "diloco" else "public"
    return spec.settings.get("audit", usual) == "public"


def _check_diloco(plan: Plan, spec: Spec) -> None:
    if plan.model not in SIZES:
        raise Complaint(f"--model {plan.model} is not known here: {nearest(plan.model, SIZES)}", Exit.SPEC)
    if plan.data_path is None and plan.data not in texts.TEXTS:
        raise Complaint(
            f"--data {plan.data} is neither a file nor a text known here ({', '.join(texts.TEXTS)})", Exit.SPEC
        )
    settings = settings_of(spec)
    if isinstance(settings, str):
        raise Complaint(settings, Exit.SPEC)
    if plan.data_path is not None:
        batch_bytes = settings.batch_size * (settings.context + 1)
        corpus = texts.load(plan.data, settings.pieces, batch_bytes, plan.data_path)
        if isinstance(corpus, str):
            raise Complaint(f"--data {plan.data_path}: {corpus}", Exit.SPEC)
