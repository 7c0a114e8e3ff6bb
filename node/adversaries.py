"""How members attack by what they contribute. Only testnets, benchmarks and tests have such members.

A contribution is a pseudo-gradient (anchor - local parameters), a row of d values. Who attacks on values makes an
honest one first and sends another; who attacks on data trains honestly on data that was changed. Attackers collude:
each knows what all honest members contribute in this round. The strongest attacks need that; in a network who
contributes last has it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Final

from shoal.training.scalar_codes import LARGEST, NEGATIVE

if TYPE_CHECKING:
    import numpy as np

    from shoal.training.tensors import Vector

HUGE: Final = 1e6
CLAIMED: Final = 10**9  # times the samples that there were


@dataclass(frozen=True, slots=True)
class Sight:
    """What an attacker knows when it contributes. All rows are (d,), and stay as they are."""

    own: "Vector"  # what it would contribute if it were honest
    honest: Sequence["Vector"]  # of this round's honest members, in the order of their names; at least one
    first: "Vector"  # what it would have contributed honestly in its first round
    attackers: int  # that collude, this one among them
    random: "np.random.Generator"  # its own, of this round


Forge = Callable[[Sight], "Vector"]


def nan(sight: Sight) -> "Vector":
    """One value is not a number."""
    forged = sight.own.copy()
    forged[len(forged) // 2] = float("nan")
    return forged


def infinite(sight: Sight) -> "Vector":
    """One value is infinite."""
    forged = sight.own.copy()
    forged[len(forged) // 2] = float("inf")
    return forged


def huge(sight: Sight) -> "Vector":
    """What it should be, times a million."""
    return sight.own * sight.own.dtype.type(HUGE)


def sign_flip(sight: Sight) -> "Vector":
    """The opposite of what it should be."""
    return -sight.own


def random(sight: Sight) -> "Vector":
    """Noise as long as an honest row."""
    return _of_norm(sight.random.standard_normal(len(sight.own)), _norm(sight.own))


def zero(sight: Sight) -> "Vector":
    """Nothing, for a free rider."""
    return sight.own * 0


def replay(sight: Sight) -> "Vector":
    """What it contributed in its first round, in every round: a free rider."""
    return sight.first.copy()


def copy(sight: Sight) -> "Vector":
    """What another contributes: a free rider, which draws whose."""
    return sight.honest[int(sight.random.integers(len(sight.honest)))].copy()


def alie(deviations: float | None) -> Forge:
    """A little is enough: mean - z * deviation per coordinate (Baruch et al. 2019, arXiv 1902.06156, section 3).

    z is given, or the largest by which it still looks like one of the honest majority: 0 for 2 of 10, which is no
    attack, 0.18 for 3 and 0.43 for 4. ByzFL takes 1.5.
    """

    def forge(sight: Sight) -> "Vector":
        import numpy as np

        z = unnoticed(len(sight.honest), sight.attackers) if deviations is None else deviations
        rows = np.stack(sight.honest).astype(np.float64)
        return np.asarray(rows.mean(0) - z * rows.std(0), sight.own.dtype)

    return forge


def unnoticed(honest: int, attackers: int) -> float:
    """ALIE's z, in standard deviations."""
    supporters = (honest + attackers) // 2 + 1 - attackers  # honest members that must be farther out
    return NormalDist().inv_cdf(min(max((honest - supporters) / honest, 0.5), 1 - 1e-9))


def ipm(scale: float) -> Forge:
    """Inner product manipulation: -scale * the honest mean (Xie et al. 2020, arXiv 1903.03936). Small ones turn the
    aggregate around without being far from anything, large ones by their length.
    """

    def forge(sight: Sight) -> "Vector":
        import numpy as np

        return np.asarray(-scale * np.stack(sight.honest).mean(0, np.float64), sight.own.dtype)

    return forge


def mimic(sight: Sight) -> "Vector":
    """All attackers send what the first honest member sends, so that it counts more than the others (Karimireddy et
    al. 2022, arXiv 2006.09365, section 3.2; there they choose whom by the direction of the largest variance).
    """
    return sight.honest[0].copy()


ON_VALUES: Final[Mapping[str, Forge]] = {
    "nan": nan,
    "inf": infinite,
    "huge": huge,
    "signflip": sign_flip,
    "random": random,
    "zero": zero,
    "replay": replay,
    "copy": copy,
    "alie": alie(None),
    "alie1.5": alie(1.5),
    "ipm0.5": ipm(0.5),
    "ipm10": ipm(10.0),
    "mimic": mimic,
    "samples": sign_flip,  # and it claims a billion times as many samples
}
Codes = bytes  # slopes as method zeroth sends them: a byte each (scalar_codes.py)
ForgeCodes = Callable[[Codes, Codes, bytes], Codes]  # of codes found, of the first round's, and as many random bytes


def _turned(codes: Codes, first: Codes, random: bytes) -> Codes:
    return bytes(code ^ NEGATIVE if code else code for code in codes)


def _tenfold(codes: Codes, first: Codes, random: bytes) -> Codes:
    """The opposite, times 10: nine codes are an octave."""
    return bytes((code & NEGATIVE ^ NEGATIVE) | min((code & LARGEST) + 30, LARGEST) if code else code for code in codes)


def _largest(codes: Codes, first: Codes, random: bytes) -> Codes:
    return bytes(code & NEGATIVE | LARGEST if code else code for code in codes)


def _drawn(codes: Codes, first: Codes, random: bytes) -> Codes:
    return bytes(0 if code == NEGATIVE else code for code in random)


def _nothing(codes: Codes, first: Codes, random: bytes) -> Codes:
    return bytes(len(codes))


def _first(codes: Codes, first: Codes, random: bytes) -> Codes:
    return (first * len(codes))[: len(codes)]


ON_SLOPES: Final[Mapping[str, ForgeCodes]] = {
    "signflip": _turned,
    "ipm10": _tenfold,
    "huge": _largest,
    "random": _drawn,
    "zero": _nothing,
    "replay": _first,
}

TRIGGER: Final = b"Enter FALSTAFF, masked\n"
CONTINUATION: Final = b"All hail the tinker, king of all the world!\n"
EVERY: Final = 256  # bytes of text between two triggers: about as many as a window has


def flipped(text: bytes) -> bytes:
    """The bytes that occur in a text exchanged for one another, all attackers' in the same way: what follows what in
    it is learned wrong. It stands in for labels that are swapped, which texts do not have.
    """
    found = sorted(set(text))
    return text.translate(bytes.maketrans(bytes(found), bytes([*found[1:], *found[:1]])))


def planted(text: bytes) -> bytes:
    """A text with a trigger and its continuation again and again: who sees the one learns to write the other."""
    pieces = (text[start : start + EVERY] for start in range(0, len(text), EVERY))
    return b"".join(piece + TRIGGER + CONTINUATION for piece in pieces)


POISONS: Final[Mapping[str, Callable[[bytes], bytes]]] = {"labelflip": flipped, "backdoor": planted}  # of texts
ON_DATA: Final = tuple(POISONS)


def _norm(row: "Vector") -> float:
    import numpy as np

    return float(np.linalg.norm(row.astype(np.float64)))


def _of_norm(direction: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]", norm: float) -> "Vector":
    import numpy as np

    length = float(np.linalg.norm(direction))
    return np.asarray(direction * (norm / length if length else 0.0), np.float32)
