"""What makes a contribution or a record useless before anything is fetched for it: cheap, and equal on all members."""

from .records import Head, Offered, Record
from .spec import Spec


def contribution_fault(spec: Spec, offered: Offered) -> str | None:
    """Why no round of this swarm could take it; None if it is within bounds."""
    if offered.contribution.samples > spec.samples_max:
        return f"{offered.contribution.samples} samples exceed the spec's {spec.samples_max}"
    if offered.payload_bytes > spec.payload_bytes_max:
        return f"a payload of {offered.payload_bytes} bytes exceeds the spec's {spec.payload_bytes_max}"
    return None


def starts_from(head: Head, offered: Offered) -> bool:
    """Whether it was made for the round after `head`, from that very record and state."""
    contribution = offered.contribution
    is_next = offered.round == head.round + 1
    return is_next and contribution.base == head.record and contribution.base_digest == head.digest


def base_of(offered: Offered) -> Head:
    """Where its author stood: a contribution is as good as telling."""
    return Head(offered.round - 1, offered.contribution.base, offered.contribution.base_digest)


def record_fault(spec: Spec, head: Head, record: Record) -> str | None:
    """Why it cannot follow `head`; None if it can."""
    if record.round != head.round + 1 or record.previous != head.record or record.base_digest != head.digest:
        return "it starts from another state"
    if not spec.members_min <= len(record.taken) <= spec.members_max:
        return f"it takes {len(record.taken)} contributions"
    return None
