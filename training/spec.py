"""A swarm's spec: what is trained, how, and by which rules; signed by its creator, immutable, its hash is the swarm's id."""

from typing import Annotated

import msgspec
from blake3 import blake3

from shoal.transport.wire import Message, PeerIdText, encode

SPEC_VERSION = 1
SPEC_BYTES_MAX = 65_536

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=120)]
Setting = int | float | bool | Annotated[str, msgspec.Meta(max_length=200)]


class Spec(Message, frozen=True, kw_only=True):
    """Numbers and names only: nothing in a spec is ever executed."""

    version: int = SPEC_VERSION
    name: Name = "shoal"
    creator: PeerIdText
    nonce: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]  # two swarms of equal settings differ
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)] = 0
    method: Name = "diloco"
    method_version: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    model: Name = "gpt-0.8m"
    data: Name = "shakespeare"
    members_start: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1  # round 1 waits until so many are connected
    members_min: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1  # a round takes no fewer contributions: below it, agreement pauses
    members_max: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 64
    round_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 30.0  # time to train in, from a round's start to its deadline
    grace_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 10.0  # after it, for payloads on their way
    silence_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 5.0  # a proposer silent for so long is passed over
    samples_max: Annotated[int, msgspec.Meta(ge=1, le=2**24)] = 1_000_000  # per contribution; 2^24: exact in float32
    payload_bytes_max: Annotated[int, msgspec.Meta(ge=1, le=2**36)] = 64 * 1024 * 1024
    rounds_max: Annotated[int, msgspec.Meta(ge=0, le=2**31)] = 0  # 0: no end
    settings: dict[Name, Setting] = {}  # the method's own; the method names, bounds and explains them


def swarm_id(spec: Spec) -> bytes:
    """32 bytes that name the swarm: the hash of its spec."""
    return blake3(b"shoal/spec/1\0" + encode(spec)).digest()
