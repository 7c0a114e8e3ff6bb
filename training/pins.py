"""Under which labels a swarm's blobs are kept, and which it lets go: the newest rounds' payloads and states stay."""

from collections.abc import Collection, Iterable, Mapping, Set

from .ports import Blobs

KINDS = ("state", "local", "round", "start")
LEFT_OVER_ROUNDS = 16  # more than any kind keeps


class Pins:
    """The labels under which one swarm's blobs are kept, by kind and round."""

    def __init__(self, swarm: bytes, blobs: Blobs) -> None:
        self._prefix = _prefix(swarm)
        self._blobs = blobs
        self._rounds: dict[str, set[int]] = {}

    def label(self, kind: str, round: int) -> str:
        """Keeps what is stored under it until `keep_newest` lets go."""
        self._rounds.setdefault(kind, set()).add(round)
        return f"{self._prefix}/{kind}/{round}"

    def remember_until(self, round: int) -> None:
        """Labels that an earlier run, which stood at `round`, may have left."""
        for kind in KINDS:
            self._rounds.setdefault(kind, set()).update(range(max(0, round - LEFT_OVER_ROUNDS), round + 2))

    def remember(self, kind: str, rounds: Iterable[int]) -> None:
        """Labels of these rounds that an earlier run may have left."""
        self._rounds.setdefault(kind, set()).update(rounds)

    def keep_only(self, kind: str, rounds: Set[int]) -> None:
        """Let go of all other rounds."""
        kept = self._rounds.get(kind, set())
        for other in sorted(kept - rounds):
            kept.discard(other)
            self._blobs.unpin(f"{self._prefix}/{kind}/{other}")

    def keep_last(self, kind: str, round: int, count: int) -> None:
        """Let go of all but the `count` newest up to `round`, however far apart, and the next."""
        past = sorted(each for each in self._rounds.get(kind, set()) if each <= round)
        self.keep_only(kind, {*past[-count:], round + 1})

    def keep_newest(self, kind: str, round: int, count: int, ahead: int = 1) -> None:
        """Let go of all rounds but the `count` that end with `round`, and some that may come."""
        kept = self._rounds.get(kind, set())
        for other in sorted(kept):
            if not round - count < other <= round + ahead:
                kept.discard(other)
                self._blobs.unpin(f"{self._prefix}/{kind}/{other}")


def labels_of(swarm: bytes, labels: Iterable[str]) -> list[str]:
    """Those under which anything of this swarm's is kept, by whatever run."""
    return sorted(label for label in labels if label.split("/")[0] == _prefix(swarm))


def states_in(labels: Mapping[str, Collection[bytes]]) -> set[bytes]:
    """The digests of all swarms' states among what labels hold."""
    return {digest for label, held in labels.items() if label.split("/")[1:2] == ["state"] for digest in held}


def _prefix(swarm: bytes) -> str:
    return swarm[:16].hex()
