"""Founding a swarm on what another has learned: which state this node has, and the spec that goes on from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import trio

from shoal.training.founding_service import Restarts
from shoal.training.methods import describe_state, with_settings
from shoal.training.models import SIZES
from shoal.training.records import Head
from shoal.training.spec import AdmissionRule, Setting, Spec
from shoal.transport.port import PeerId

from .complaint import Complaint, Exit
from .swarms import Joined, Swarms

LATEST: Final = "latest"


@dataclass(frozen=True, slots=True)
class Origin:
    """What another swarm goes on from."""

    joined: Joined
    head: Head
    state: Any
    settings: Mapping[str, Setting]

    @property
    def parent(self) -> str:
        """As a spec says it."""
        return f"{self.joined.id}@{self.head.record.hex()}"


async def origin_at(swarms: Swarms, text: str) -> Origin:
    """The state that SWARM@RECORD names. Raises Complaint."""
    swarm, separator, record = text.rpartition("@")
    if not separator or not swarm or not record:
        raise Complaint(f"'{text}' is not SWARM@RECORD: write, for example, tiny@{LATEST}", Exit.USAGE)
    return await origin_of(swarms.find(swarm), record)


async def origin_of(joined: Joined, record: str) -> Origin:
    """The state of a swarm that this node has, if it is that after this record: a hash's beginning, or LATEST. Raises
    Complaint.
    """
    service, method = joined.running(), joined.method
    name = f"swarm {joined.spec.name} ({joined.id[:12]})"
    if method is None:
        raise Complaint(f"this node only stores {name}: a node that trains in it has a state to go on from")
    if not isinstance(method, Restarts):
        raise Complaint(f"no swarm can go on from {name}: its method {joined.spec.method} has no state that could be")
    head = chosen(service.saved_heads(), record, name)
    state = await service.saved_state(head)
    if isinstance(state, str):
        raise Complaint(f"the state after round {head.round} of {name} cannot be had: {state}")
    settings = await trio.to_thread.run_sync(describe_state, method, state)
    return Origin(joined, head, state, settings)


def chosen(heads: Sequence[Head], record: str, name: str) -> Head:
    """The newest of these, or the one whose record's hash begins so. Raises Complaint."""
    known = [head for head in heads if head.round]
    if not known:
        raise Complaint(f"{name} has no record yet: there is nothing to go on from")
    if record == LATEST:
        return known[0]
    fitting = [head for head in known if head.record.hex().startswith(record.lower())]
    if len({head.record for head in fitting}) != 1:
        here = ", ".join(f"{head.record.hex()[:12]} of round {head.round}" for head in known)
        what = "several states after records" if fitting else "no state after a record"
        raise Complaint(f"of {name} this node has {what} '{record}', but those after {here}: name one, or '{LATEST}'")
    return fitting[0]


def going_on(spec: Spec, origin: Origin) -> Spec:
    """`spec`, from the origin's state. Raises Complaint where that is of another model, as far as names tell."""
    old = origin.joined.spec
    if old.model != spec.model and {old.model, spec.model} <= SIZES.keys():
        raise Complaint(
            f'swarm {old.name} ({origin.joined.id[:12]}) trains {old.model}, and the spec says model = "{spec.model}": '
            "only the same model goes on from its state. Give a spec of that model, or take `shoal swarm fork`",
            Exit.SPEC,
        )
    return with_settings(msgspec.structs.replace(spec, parent=origin.parent), **origin.settings)


def forked(origin: Origin, creator: PeerId, nonce: bytes) -> Spec:
    """The origin's own spec for a swarm of this creator's, whose list leaves out whom the members have shut out.

    It begins with members_min: of the members_start who began the old swarm some may be gone for good.
    """
    old = origin.joined.spec
    allowed = old.allowed
    if old.admission is AdmissionRule.LIST:
        allowed = tuple(sorted({*old.allowed, old.creator} - shut_out(origin.joined)))
    spec = msgspec.structs.replace(old, creator=creator, nonce=nonce, allowed=allowed, members_start=old.members_min)
    return going_on(spec, origin)


def shut_out(joined: Joined) -> set[str]:
    """Who was removed, or is proved to have signed two records of one round."""
    view = None if joined.service is None else joined.service.membership()
    if view is None:
        return set()
    return {*view.barred, *(() if view.split is None else view.split.culprits)}
