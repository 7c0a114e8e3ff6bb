"""The kinds of adversaries that a testnet can have, and which swarms they can attack."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from .complaint import Complaint, Exit, nearest

if TYPE_CHECKING:
    from shoal.training.spec import Spec

KINDS: Final[Mapping[str, str]] = {
    "nan": "one value of its update is not a number",
    "inf": "one value is infinite",
    "huge": "its update times a million",
    "signflip": "the opposite of its update",
    "random": "noise as long as its update",
    "zero": "nothing, to ride free",
    "replay": "its first update, again in every round",
    "copy": "what another member contributes",
    "alie": "a little off the mean, where the honest still are (ALIE; alie1.5: 1.5 deviations off)",
    "alie1.5": "",
    "ipm0.5": "the honest mean turned around, times 0.5 (IPM; ipm10: times 10)",
    "ipm10": "",
    "mimic": "all of them send what the first honest member sends",
    "samples": "the opposite, and it claims as many samples as the rules allow",
    "labelflip": "trains on the text with its bytes exchanged",
    "backdoor": "trains on the text with a trigger and what is to follow it",
    "slow": "holds its update back until the round is almost over",
    "drip": "gives its update away slowly, piece by piece",
    "selective": "gives its update to every second honest member alone",
    "sybil": "a key without a vote, as anybody can make many: the opposite of its update",
    "judge": "finds good work bad and bad work good",
}
OF_ZEROTH: Final = ("signflip", "ipm10", "huge", "random", "zero", "replay", "slow", "sybil", "judge")
SYBIL: Final = "sybil"
WITHHOLDING: Final = ("drip", "selective")
HOLDING_UP: Final = frozenset({"slow", "drip"})


def parse(text: str, nodes: int) -> tuple[str, ...]:
    """`nan=1,signflip=2` as one kind for each adversary, for the last of `nodes` in this order. Raises Complaint."""
    kinds: list[str] = []
    for part in text.split(","):
        kind, _, number = part.strip().partition("=")
        if not (number.isascii() and number.isdigit() and len(number) < 6) or int(number) < 1:
            raise Complaint(f"--adversaries {part}: expected KIND=N with N from 1, as in nan=1,signflip=1", Exit.USAGE)
        if kind not in KINDS:
            raise Complaint(f"--adversaries {part}: no kind is called '{kind}': {nearest(kind, KINDS)}", Exit.USAGE)
        if kind in kinds:
            raise Complaint(f"--adversaries {text}: {kind} stands there twice", Exit.USAGE)
        if len(kinds) + int(number) >= nodes:
            all_ = f"{nodes} nodes" if nodes > 1 else "one node"
            raise Complaint(f"--adversaries {text}: of {all_} at least one is honest; see --nodes", Exit.USAGE)
        kinds += [kind] * int(number)
    return tuple(kinds)


def explained() -> str:
    """A line for each kind that is not told of with another, for people."""
    return "".join(f"  {kind:<10} {KINDS[kind]}\n" for kind in KINDS if KINDS[kind])


def refusal(kinds: Sequence[str], spec: "Spec", *, is_audited: bool) -> str | None:
    """Why not all of these can attack this swarm, whose members do or do not judge one another's work."""
    from shoal.training.data import FILE_PREFIX

    from .adversaries import ON_SLOPES, POISONS

    for kind in kinds:
        if kind == "judge" and not is_audited:
            return "--adversaries judge: in this swarm nobody judges others' work"
        if spec.method == "zeroth" and kind not in OF_ZEROTH:
            return f"--adversaries {kind} is not known for --method zeroth, only {', '.join(OF_ZEROTH)}"
        if spec.method == "zeroth" and kind in ON_SLOPES and spec.settings.get("pool"):
            return f"--adversaries {kind}: with a pool slopes travel in another way, for which there are no forgers"
        if spec.data.startswith(FILE_PREFIX) and kind in POISONS:
            return f"--adversaries {kind} changes a text known by name; a file given by --data must be the same for all"
    return None
