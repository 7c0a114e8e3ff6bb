"""What the shells of one swarm's member work with."""

from collections.abc import Callable
from dataclasses import dataclass

from shoal.transport.port import PeerId, Transport

from .events import Event
from .keeping import Keeping
from .pins import Pins
from .ports import Blobs, Signer
from .spec import SignedSpec, Spec
from .store import MemberStore
from .workers_service import Workers


@dataclass(frozen=True, slots=True)
class Means:
    """See SwarmService, which makes it."""

    signed_spec: SignedSpec
    spec: Spec
    swarm: bytes
    transport: Transport
    keeping: Keeping
    blobs: Blobs
    signer: Signer
    workers: Workers
    store: MemberStore
    pins: Pins
    observe: Callable[[Event], None]
    expects: Callable[[PeerId], bool]
