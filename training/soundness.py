"""What makes a contribution useless before anything is fetched for it: cheap, and equal on all members."""

from .records import INLINE_BYTES_MAX, Head, Offered
from .spec import Spec


def contribution_fault(spec: Spec, offered: Offered) -> str | None:
    """Why no round of this swarm could take it; None if it is within bounds."""
    if offered.contribution.samples > spec.samples_max:
        return f"{offered.contribution.samples} samples exceed the spec's {spec.samples_max}"
    if offered.payload_bytes > spec.payload_bytes_max:
        return f"a payload of {offered.payload_bytes} bytes exceeds the spec's {spec.payload_bytes_max}"
    if offered.ref is not None and offered.payload_bytes <= INLINE_BYTES_MAX:
        return f"a payload of {offered.payload_bytes} bytes travels inside of its contribution"
    return None


def base_of(offered: Offered) -> Head:
    """Where its author stood: a contribution is as good as telling."""
    contribution = offered.contribution
    return Head(contribution.base_round, contribution.base, contribution.base_digest)
