"""What an RPC session tells its owner."""

import msgspec

from .calls import Data
from .port import Refusal


class Opened(msgspec.Struct, frozen=True, gc=False):
    """The peer calls a method; its messages follow."""

    call: int
    method: bytes


class Received(msgspec.Struct, frozen=True, gc=False):
    """A whole message. `consume` says that it was taken."""

    call: int
    data: Data
    is_last: bool


class Finished(msgspec.Struct, frozen=True, gc=False):
    """The peer sends nothing more in this call."""

    call: int


class Stopped(msgspec.Struct, frozen=True, gc=False):
    """The call is over: the peer gave up or wants no more, or it broke a bound, or time is up. None: nothing failed."""

    call: int
    refusal: Refusal | None


class Drained(msgspec.Struct, frozen=True, gc=False):
    """The call's sender may go on."""

    call: int


class Closed(msgspec.Struct, frozen=True, gc=False):
    """The session is over, and all its calls. What `output` still gives says goodbye; then the stream is closed."""

    refusal: Refusal


Event = Opened | Received | Finished | Stopped | Drained | Closed
