"""What the nodes of a run told, folded into rounds: for the live table while it goes on, for the report at its end.

A pure fold: events go in as the local API gives them, in any interleaving, some of them twice (a watcher that
reconnects asks for all that is still kept); the same events give the same tally. The clock comes in with each event.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .report import DONE_TO, Event, Final, Incident, Report, ReportedRound, Trouble

INCIDENTS_MAX = 1000
EVENTS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Row:
    """One node as the live table shows it. None: not known yet."""

    peer: str
    is_running: bool
    round: int  # the newest that it closed
    doing: str
    training_loss: float | None
    validation_loss: float | None
    evaluated: int  # the round that it is of
    tokens_per_s: float | None
    bytes_sent: int
    bytes_received: int
    peers: int | None
    digest: str


@dataclass(frozen=True, slots=True)
class View:
    """A run at a glance."""

    rows: tuple[Row, ...]
    rounds_closed: int  # by every running node
    rounds: int | None  # how many are meant; None for a run by the clock
    elapsed_s: float  # since training began
    left_s: float | None  # an estimate; None before the first round closed


@dataclass(slots=True)
class _Told:
    """What one node said about one round."""

    contributors: tuple[str, ...] = ()
    digest: str = ""
    seconds: float = 0.0
    phases: dict[str, float] = field(default_factory=dict[str, float])
    bytes_sent: int = 0
    bytes_received: int = 0
    is_closed: bool = False
    metrics: dict[str, float] = field(default_factory=dict[str, float])  # of the state after it
    training_loss: float | None = None
    tokens: int = 0
    contribution_bytes: int = 0
    train_s: float = 0.0
    attempts: int = 1
    closed_at: float = 0.0
    weights: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def validation_loss(self) -> float | None:
        return self.metrics.get("validation_loss")


@dataclass(slots=True)
class _Befallen:
    """What was done to some nodes."""

    kind: Trouble
    nodes: tuple[str, ...]
    at: float
    until: float = math.inf  # while it goes on


@dataclass(slots=True)
class _Node:
    rounds: dict[int, _Told] = field(default_factory=dict[int, _Told])
    newest: int = 0
    doing: str = "starting"
    is_running: bool = False
    peers: int | None = None
    has_finished: bool = False

    def told(self, round: int) -> _Told:
        return self.rounds.setdefault(round, _Told())


class Tally:
    """The run so far."""

    def __init__(self, nodes: Sequence[str], attacks: Mapping[str, str] = {}) -> None:
        """`attacks`: of each node that is not honest the kind."""
        self._nodes = {peer: _Node() for peer in sorted(nodes)}
        self._attacks = dict(attacks)
        self._incidents: list[Incident] = []
        self._events: list[_Befallen] = []
        self._began_at: float | None = None
        self._ended_at = 0.0

    @property
    def has_finished(self) -> bool:
        """Whether all running honest nodes have closed the last round, and one of them has evaluated it."""
        running = self._running()
        last = self.rounds_closed()
        is_evaluated = any(node.told(last).validation_loss is not None for node in running)
        return is_evaluated and all(node.has_finished for node in running)

    def newest_round(self, peer: str) -> int:
        """The newest round that `peer` closed or was brought to."""
        return self._nodes[peer].newest

    def rounds_closed(self) -> int:
        """The newest round that every running honest node has closed."""
        return min((node.newest for node in self._running()), default=0)

    def newest_whole_round(self) -> int:
        """The newest round that has everybody's contribution, that all closed by themselves, and one has evaluated."""
        everybody = tuple(self._nodes)
        for number in range(self.rounds_closed(), 0, -1):
            told = [node.rounds.get(number) for node in self._nodes.values()]
            closed = [each for each in told if each is not None and each.is_closed and each.contributors == everybody]
            if len(closed) == len(told) and any(each.validation_loss is not None for each in closed):
                return number
        return 0

    def digest(self, peer: str, round: int) -> str | None:
        """The state digest, in hex, that `peer` had after closing `round`; None if it did not close it itself."""
        told = self._nodes[peer].rounds.get(round)
        return told.digest if told is not None and told.is_closed else None

    def contributors(self, peer: str, round: int) -> tuple[str, ...]:
        """Whose contributions the round took, as `peer` closed it; none if it did not."""
        told = self._nodes[peer].rounds.get(round)
        return told.contributors if told is not None else ()

    def started(self, peer: str) -> None:
        node = self._nodes[peer]
        node.is_running, node.doing, node.has_finished = True, "starting", False
        if node.newest:
            self._note(peer, "started again")

    def stopped(self, peer: str, why: str) -> None:
        node = self._nodes[peer]
        node.is_running, node.doing = False, why
        self._note(peer, f"went down: {why}")

    def befell(self, kind: Trouble, peers: Sequence[str], now: float) -> int:
        """Something is done to these nodes; its number, for `passed`."""
        for peer in peers:
            self._nodes[peer].doing = DONE_TO[kind]
        if len(self._events) < EVENTS_MAX:
            self._events.append(_Befallen(kind, tuple(sorted(peers)), now))
        return len(self._events) - 1

    def passed(self, number: int, now: float) -> None:
        """It is over."""
        self._events[number].until = now

    def connected(self, peer: str, peers: int) -> None:
        self._nodes[peer].peers = peers

    def add(self, peer: str, event: Mapping[str, Any], now: float) -> None:
        """Take in one event of `peer`'s node. Kinds it does not know are passed over: later versions add some."""
        node = self._nodes[peer]
        match event:
            case {"event": "RoundStarted", "round": int(round)}:
                node.doing = f"training round {round}"
                self._began_at = now if self._began_at is None else self._began_at
            case {"event": "LocalDone", "round": int(round), "metrics": metrics}:
                self._add_local(node, round, event, metrics)
            case {"event": "RoundClosed", "round": int(round)}:
                self._add_closed(node, round, event, now)
            case {"event": "Evaluated", "round": int(round), "metrics": metrics}:
                node.told(round).metrics = {str(name): float(value) for name, value in metrics.items()}
            case {"event": "Resynced", "to_round": int(round), "from_round": int(before)}:
                node.newest = max(node.newest, round)
                node.doing = f"caught up to round {round}"
                self._note(peer, f"resynchronized from round {before} to round {round}")
            case {"event": "Went", "way": str(way), "to_round": int(round), "has_arrived": bool(is_there)}:
                outcome = "got there" if is_there else "led nowhere"
                self._note(peer, f"to round {round} by {way}: {outcome} ({event.get('reason')})")
            case {"event": "Waiting", "reason": str(reason)}:
                node.doing = f"waiting: {reason}"
            case {"event": "Finished"}:
                node.doing, node.has_finished = "finished", True
            case {"event": "Problem", "message": str(message)}:
                node.doing = f"problem: {message}"
                self._note(peer, message)
            case _:
                pass

    def view(self, rounds: int | None, now: float, left_s: float | None = None) -> View:
        """The run now. `left_s` overrules the estimate, for runs by the clock."""
        closed = self.rounds_closed()
        elapsed = 0.0 if self._began_at is None else now - self._began_at
        if left_s is None and rounds is not None and closed:
            left_s = max(0.0, (self._ended_at - (self._began_at or 0.0)) / closed * rounds - elapsed)
        rows = tuple(self._row(peer, node) for peer, node in self._nodes.items())
        return View(rows, closed, rounds, elapsed, left_s)

    def report(self, method: str, last: int | None = None) -> Report:
        """The rounds that somebody honest closed, up to the last that one evaluated and to round `last`; by default the
        newest that all running nodes have closed.
        """
        honest = [peer for peer in self._nodes if peer not in self._attacks]
        if last is None:
            last = self.rounds_closed() or max((self._nodes[peer].newest for peer in honest), default=0)
        built = [self._round(number, honest) for number in range(1, last + 1)]
        while built and (built[-1] is None or built[-1].validation_loss is None):
            built.pop()
        rounds = [entry for entry in built if entry is not None]
        tokens = [sum(self._nodes[peer].told(entry.round).tokens for entry in rounds) for peer in honest]
        return Report(
            method=method,
            nodes=tuple(self._nodes),
            adversaries=tuple(sorted(self._attacks)),
            attacks=self._attacks,
            rounds=tuple(rounds),
            baselines=None,
            final=Final(
                validation_loss=rounds[-1].validation_loss or 0.0 if rounds else 0.0,
                metrics=rounds[-1].metrics if rounds else {},
                tokens_per_member=sum(tokens) // max(1, len(honest)),
                bytes_sent_total=sum(sum(entry.bytes_sent.values()) for entry in rounds),
            ),
            seconds=max(0.0, self._ended_at - (self._began_at or 0.0)) if rounds else 0.0,
            incidents=tuple(self._incidents),
            events=tuple(self._event(each) for each in self._events),
        )

    def _running(self) -> list[_Node]:
        """The honest ones: what the others say nobody goes by."""
        return [node for peer, node in self._nodes.items() if node.is_running and peer not in self._attacks]

    def _add_local(self, node: _Node, round: int, event: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
        told = node.told(round)
        told.tokens = int(metrics.get("tokens", event.get("samples", 0)))
        told.train_s = float(event.get("seconds", 0.0))
        told.contribution_bytes = int(event.get("bytes", 0))
        if "loss" in metrics:
            told.training_loss = float(metrics["loss"])
        node.doing = f"exchanging round {round}"

    def _add_closed(self, node: _Node, round: int, event: Mapping[str, Any], now: float) -> None:
        told = node.told(round)
        told.contributors = tuple(sorted(event.get("contributors", ())))
        told.digest = str(event.get("state_digest") or "")
        told.seconds = float(event.get("seconds", 0.0))
        told.phases = {str(name): float(value) for name, value in event.get("phases", {}).items()}
        told.bytes_sent = int(event.get("bytes_sent", 0))
        told.bytes_received = int(event.get("bytes_received", 0))
        told.attempts = int(event.get("attempt", 0)) + 1
        told.weights = {str(peer): float(share) for peer, share in event.get("weights", {}).items()}
        if not told.is_closed:  # else it is told once more
            told.closed_at = now
        told.is_closed = True
        if round > node.newest:
            node.newest = round
            self._ended_at = max(self._ended_at, now)
        node.doing = f"closed round {round}"

    def _row(self, peer: str, node: _Node) -> Row:
        told = [each for _, each in sorted(node.rounds.items())]
        trained = [each for each in told if each.train_s > 0]
        losses = [each.training_loss for each in trained if each.training_loss is not None]
        evaluated = [(number, each.validation_loss) for number, each in sorted(node.rounds.items())]
        evaluated = [(number, loss) for number, loss in evaluated if loss is not None]
        digests = [each.digest for each in told if each.is_closed]
        return Row(
            peer=peer,
            is_running=node.is_running,
            round=node.newest,
            doing=node.doing,
            training_loss=losses[-1] if losses else None,
            validation_loss=evaluated[-1][1] if evaluated else None,
            evaluated=evaluated[-1][0] if evaluated else 0,
            tokens_per_s=trained[-1].tokens / trained[-1].train_s if trained else None,
            bytes_sent=sum(each.bytes_sent for each in told),
            bytes_received=sum(each.bytes_received for each in told),
            peers=node.peers,
            digest=digests[-1] if digests else "",
        )

    def _round(self, number: int, honest: Sequence[str]) -> ReportedRound | None:
        told = {peer: node.rounds[number] for peer, node in self._nodes.items() if number in node.rounds}
        closed = {peer: each for peer, each in told.items() if each.is_closed}
        own = [each for peer, each in closed.items() if peer in honest]
        if not own:
            return None
        metrics = next((dict(each.metrics) for each in own if each.validation_loss is not None), dict[str, float]())
        # Where members disagree, `faults` says so; the map below then shows what most of them took.
        contributors, _ = Counter(each.contributors for each in own).most_common(1)[0]
        weights = next((each.weights for each in own if each.contributors == contributors), dict[str, float]())
        return ReportedRound(
            round=number,
            contributors=contributors,
            state_digest={peer: each.digest for peer, each in closed.items()},
            validation_loss=metrics.pop("validation_loss", None),
            metrics=metrics,
            contribution_bytes={
                peer: each.contribution_bytes for peer, each in told.items() if each.contribution_bytes
            },
            seconds=max(each.seconds for each in own),
            bytes_sent={peer: each.bytes_sent for peer, each in closed.items()},
            bytes_received={peer: each.bytes_received for peer, each in closed.items()},
            tokens={peer: each.tokens for peer, each in told.items() if each.tokens},
            training_loss={peer: each.training_loss for peer, each in told.items() if each.training_loss is not None},
            phases={peer: each.phases for peer, each in closed.items() if each.phases},
            attempts=max(each.attempts for each in own),
            weights=weights,
            closed_at={peer: self._since_start(each.closed_at) for peer, each in closed.items()},
        )

    def _event(self, each: _Befallen) -> Event:
        until = min(each.until, max(each.at, self._ended_at))
        return Event(kind=each.kind, nodes=each.nodes, time=self._since_start(each.at), until=self._since_start(until))

    def _since_start(self, at: float) -> float:
        return round(max(0.0, at - (self._began_at or 0.0)), 3)

    def _note(self, peer: str, what: str) -> None:
        newest = max(node.newest for node in self._nodes.values())
        incident = Incident(node=peer, round=newest, what=what)
        if len(self._incidents) < INCIDENTS_MAX and incident not in self._incidents:
            self._incidents.append(incident)
