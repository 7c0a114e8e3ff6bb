"""What a run leaves behind: report.json, version 1, as typed structures.

The fields without a default are version 1's contract; those with one were added since and may be missing in a file.
Readers ignore fields they do not know, unlike on the wire: a report is read by scripts that are older than the run.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec

REPORT_VERSION: Literal[1] = 1
REPORT_BYTES_MAX = 256 * 1024 * 1024  # 1,000 nodes for 10,000 rounds stay far below it

Trouble = Literal["kill", "freeze", "partition"]
DONE_TO: Mapping[Trouble, str] = {"kill": "killed", "freeze": "frozen", "partition": "cut off"}

Hex = Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{2})*$", max_length=128)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class ReportedRound(msgspec.Struct, frozen=True, kw_only=True):
    """One closed round. A node that was down is absent from the maps, which are by peer id."""

    round: Annotated[int, msgspec.Meta(ge=1)]
    contributors: tuple[str, ...]  # sorted
    state_digest: dict[str, Hex]  # of the state after the round
    validation_loss: float | None  # of the state after the round, in nats per `loss_per`; null: it was not evaluated
    seconds: Seconds  # from the round's start to its close
    bytes_sent: dict[str, Count]
    bytes_received: dict[str, Count] = {}
    tokens: dict[str, Count] = {}  # that the member trained on in this round
    training_loss: dict[str, float] = {}  # the mean over its own steps
    phases: dict[str, dict[str, Seconds]] = {}  # by peer: {"train": s, "exchange": s, "apply": s}
    attempts: Count = 1  # that agreement on the round took
    closed_at: dict[str, Seconds] = {}  # by peer: since the first round's start
    metrics: dict[str, float] = {}  # of the state after the round, besides its loss: {"accuracy": ...}
    contribution_bytes: dict[str, Count] = {}  # by peer: its contribution, payload and signature included
    weights: dict[str, Annotated[float, msgspec.Meta(ge=0)]] = {}  # by contributor: its part of all weight


class Point(msgspec.Struct, frozen=True, array_like=True):
    """One evaluation of a baseline."""

    tokens: Count
    validation_loss: float


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    validation_loss: float  # at the end, at as many tokens per member as the swarm
    curve: tuple[Point, ...] = ()


class Baselines(msgspec.Struct, frozen=True, kw_only=True):
    alone: Baseline  # one member, its own shard, no exchange
    synchronous: Baseline  # all members exchange gradients in every step


class Final(msgspec.Struct, frozen=True, kw_only=True):
    validation_loss: float  # of the newest state that was evaluated
    tokens_per_member: Count  # the mean over the honest members, rounded down
    bytes_sent_total: Count
    metrics: dict[str, float] = {}  # of that state, besides its loss


class GeneratedText(msgspec.Struct, frozen=True, kw_only=True):
    """What the model writes after the same prompt, with the same seed, before training and after."""

    prompt: str
    before: str
    after: str


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """What else happened: a node went down, came back, was resynchronized, or complained."""

    node: str
    round: Count  # the newest round closed anywhere when it happened
    what: str


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What `--chaos` did to some nodes. Both times are seconds since the first round's start."""

    time: Seconds
    until: Seconds
    kind: Trouble
    nodes: tuple[str, ...]  # of a partition those on one side


class Chaos(msgspec.Struct, frozen=True, kw_only=True):
    """What else is to be known about a run whose nodes were disturbed on purpose."""

    seed: Count
    is_over: bool = False  # all nodes ran again when the run ended
    left_out: str = ""  # why there were no partitions
    unsound: tuple[str, ...] = ()  # what was found against the nodes' records
    undisturbed: Baseline | None = None  # the same nodes for as many rounds, all of them left alone

    def ratio(self, validation_loss: float) -> float | None:
        """How many times the undisturbed run's loss this is."""
        return None if self.undisturbed is None else validation_loss / (self.undisturbed.validation_loss or math.nan)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run."""

    version: Literal[1] = REPORT_VERSION
    method: str
    nodes: tuple[str, ...]  # adversaries included
    adversaries: tuple[str, ...]
    rounds: tuple[ReportedRound, ...]
    baselines: Baselines | None
    final: Final
    model: str = ""
    data: str = ""
    seed: int = 0
    seconds: Seconds = 0.0  # training, from the first round's start to the last one's close
    samples: GeneratedText | None = None
    incidents: tuple[Incident, ...] = ()
    routers: tuple[str, ...] = ()  # what each node is behind, in the order of `nodes`; empty on loopback
    chaos: Chaos | None = None
    events: tuple[Event, ...] = ()  # in the order of their beginnings
    before: dict[str, float] = {}  # figures of the state of round 0: {"validation_loss": ..., "accuracy": ...}
    loss_per: str = "byte"  # what losses are per
    attacks: dict[str, str] = {}  # how each of the adversaries attacks
    barred: tuple[str, ...] = ()  # who was voted out by the end
    banned: dict[str, Count] = {}  # by the end: whose work counts nothing, until which round

    def evaluated(self) -> list[tuple[ReportedRound, float]]:
        """The rounds whose states were evaluated, with their losses."""
        return [(each, each.validation_loss) for each in self.rounds if each.validation_loss is not None]

    def honest(self) -> tuple[str, ...]:
        return tuple(node for node in self.nodes if node not in self.adversaries)


def faults(report: Report, rounds_expected: int) -> list[str]:
    """Why the run is no success, one line each; empty when all rounds closed and all honest digests agree."""
    found: list[str] = []
    numbers = [entry.round for entry in report.rounds]
    if missing := sorted(set(range(1, rounds_expected + 1)) - set(numbers)):
        found.append(
            f"{len(missing)} of {rounds_expected} rounds did not close; the first of them is round {missing[0]}"
        )
    honest = set(report.honest())
    for entry in report.rounds:
        digests = {peer: digest for peer, digest in entry.state_digest.items() if peer in honest}
        if len(set(digests.values())) > 1:
            split = ", ".join(f"{peer[-6:]} {digest[:8]}" for peer, digest in sorted(digests.items()))
            found.append(f"honest members disagree about the state after round {entry.round}: {split}")
        if entry.validation_loss is not None and not math.isfinite(entry.validation_loss):
            found.append(f"the validation loss after round {entry.round} is {entry.validation_loss}: training diverged")
    if report.chaos is not None:
        found += report.chaos.unsound
        found += _absent(report, report.rounds[-1]) if report.chaos.is_over and report.rounds else []
    return found


def _absent(report: Report, last: ReportedRound) -> list[str]:
    """Who is missing in the last round of a run at whose end everybody runs again."""
    absent = {
        "did not close": [peer for peer in report.honest() if not last.state_digest.get(peer)],
        "has no contribution in": [peer for peer in report.honest() if peer not in last.contributors],
    }
    return [
        f"node {peer[-6:]} {verb} round {last.round}, the last, though it ran again"
        for verb, peers in absent.items()
        for peer in peers
    ]


def write(report: Report, path: Path) -> None:
    """Write report.json, indented for people. Raises OSError."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")


def read(path: Path) -> Report:
    """The report in a file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a report of version 1; the message says where.
    """
    if path.stat().st_size > REPORT_BYTES_MAX:
        raise ValueError(f"{path}: more than {REPORT_BYTES_MAX} bytes is no report")
    try:
        return msgspec.json.decode(path.read_bytes(), type=Report)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path}: not a report of version {REPORT_VERSION}: {error}") from None
