"""How long agreement waits for a proposal, and for what it names to be here.

A member that lacks a payload votes when it has come: so an attempt takes as long as the largest one at the median rate
of the members. The median: a liar's rate moves nobody's patience further than an honest member's.
"""

from collections.abc import Iterable

from .spec import Spec
from .voting_effects import Timeouts

PAYLOAD_S_MAX = 60.0  # a lie costs no more, and a payload that takes longer is not waited for


def timeouts(spec: Spec, payload_bytes: int, rates: Iterable[int]) -> Timeouts:
    """For a round whose largest payload has so many bytes; `rates` are the members', in bytes per second, if known."""
    known = sorted(rate for rate in rates if rate > 0)
    fetch_s = min(PAYLOAD_S_MAX, payload_bytes / known[len(known) // 2]) if known and payload_bytes else 0.0
    return Timeouts(spec.silence_s + fetch_s, spec.silence_s / 2, spec.silence_s / 2)
