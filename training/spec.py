"""A swarm's spec: what is trained, how, and by which rules; signed by its creator, immutable, its hash is the
swarm's id.

A peer can send any bytes as a spec. What it cannot do: pass another spec off under a swarm's id (the id is the hash
of the bytes), under another creator's name (the creator signs them), or with a value out of bounds. Nothing in a spec
is ever executed.
"""

import enum
import math
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from blake3 import blake3

from shoal.transport.identity import verify
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed, Message, PeerIdText, decode, encode

from .ports import Signer

SPEC_VERSION = 1
SPEC_BYTES_MAX = 65_536
SETTINGS_MAX = 256
BAN_ROUNDS = 256

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=120)]
Setting = int | float | bool | Annotated[str, msgspec.Meta(max_length=200)]
Settings = Annotated[dict[Name, Setting], msgspec.Meta(max_length=SETTINGS_MAX)]

Parent = Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{64}@[0-9a-f]{64})?$")]

PeerIds = Annotated[tuple[PeerIdText, ...], msgspec.Meta(max_length=1024)]

_DOMAIN = b"shoal/spec/1\0"  # of the id's hash and of the signature: neither serves as anything else


class Quorum(enum.Enum):
    """Which votes are enough to end a round."""

    MAJORITY = "majority"
    TWO_THIRDS = "two_thirds"


class AdmissionRule(enum.Enum):
    """Who is let in."""

    INVITE = "invite"  # who has an invite of a voter's: one vote
    LIST = "list"  # who is on the spec's list: one vote
    OPEN = "open"  # anybody, without a vote until a voter vouches for it


class Spec(Message, frozen=True, kw_only=True):
    """Numbers and names only."""

    version: Annotated[int, msgspec.Meta(ge=1)] = SPEC_VERSION
    name: Name = "shoal"
    creator: PeerIdText
    nonce: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]  # two swarms of equal settings differ
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)] = 0
    method: Name = "diloco"
    method_version: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    model: Name = "gpt-0.8m"
    data: Name = "shakespeare"
    members_start: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1  # round 1 waits until so many are connected
    members_min: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1  # a round that takes any takes no fewer members'
    members_max: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 64
    round_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 30.0  # to train in, from a round's start to its deadline
    grace_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 10.0  # after it, for payloads on their way
    silence_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 1.0  # a proposer silent for so long is passed over
    samples_max: Annotated[int, msgspec.Meta(ge=1, le=2**24)] = 1_000_000  # per contribution; 2^24: exact in float32
    payload_bytes_max: Annotated[int, msgspec.Meta(ge=1, le=2**36)] = 64 * 1024 * 1024
    rounds_max: Annotated[int, msgspec.Meta(ge=0, le=2**31)] = 0  # 0: no end
    settings: Settings = msgspec.field(
        default_factory=dict[str, Setting]
    )  # the method's own, which bounds and explains them
    quorum: Quorum = Quorum.MAJORITY  # an author's default where anybody is let in: TWO_THIRDS
    admission: AdmissionRule = AdmissionRule.INVITE  # an author's default where is_public: OPEN
    allowed: PeerIds = ()  # the list, sorted, where members are let in by it; the creator need not stand in it
    stale_rounds_max: Annotated[int, msgspec.Meta(ge=0, le=16)] = 4  # of what a contribution may start from, in rounds
    store_rounds: Annotated[int, msgspec.Meta(ge=0, le=2**31)] = 64  # how often members compact their store; 0: never
    is_public: bool = False  # members list it where anybody may find it (`shoal swarm list --public`)
    parent: Parent = ""  # "<swarm>@<record>" that this one goes on from, in hex, as its creator says
    ban_rounds: Annotated[int, msgspec.Meta(ge=1, le=2**31)] = BAN_ROUNDS  # for which a banned member counts nothing


class SignedSpec(Message, frozen=True):
    """A spec as it travels and lies on disk: the bytes that were signed, never re-encoded."""

    spec: Annotated[bytes, msgspec.Meta(min_length=1, max_length=SPEC_BYTES_MAX)]
    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]


def swarm_id(spec: Spec) -> bytes:
    """32 bytes that name the swarm: the hash of its spec."""
    return swarm_id_of(encode(spec))


def swarm_id_of(spec_bytes: bytes) -> bytes:
    return blake3(_DOMAIN + spec_bytes).digest()


def spec_from(values: Mapping[str, Any], creator: PeerId, nonce: bytes) -> Spec | Malformed:
    """The spec with these fields, the rest at their defaults; or which key is wrong and why, for its author to read.

    `values` is what a TOML file or a command line gives: plain values and one table, `settings`.
    """
    fields = {field.name: field for field in msgspec.structs.fields(Spec)}
    settable = sorted(set(fields) - {"version", "creator", "nonce", "parent"})
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if key not in settable:
            return Malformed(f"spec key {key!r} is unknown; keys are {', '.join(settable)}")
        try:
            checked[key] = msgspec.convert(value, fields[key].type)
        except msgspec.ValidationError as error:
            return Malformed(f"spec key {key!r}: {error}")
    if checked.get("is_public"):
        checked.setdefault("admission", AdmissionRule.OPEN)  # who finds it has nobody to ask for an invite
    if checked.get("admission") is AdmissionRule.OPEN:
        checked.setdefault("quorum", Quorum.TWO_THIRDS)
    checked["allowed"] = tuple(sorted(set(checked.get("allowed", ()))))
    # Sorted: two authors who wrote the same settings in another order get the same bytes.
    checked["settings"] = dict(sorted(checked.get("settings", {}).items()))
    spec = Spec(creator=creator, nonce=nonce, **checked)
    wrong = _contradiction(spec)
    return Malformed(wrong) if wrong else spec


def sign_spec(spec: Spec, signer: Signer) -> SignedSpec:
    """Raises ValueError if `spec` is another creator's or breaks its own bounds: the caller's bug."""
    data = encode(spec)
    signed = SignedSpec(data, signer.sign(_DOMAIN + data))
    opened = open_spec(signed)
    if isinstance(opened, Malformed):
        raise ValueError(opened.reason)
    return signed


def open_spec(signed: SignedSpec, swarm: bytes | None = None) -> Spec | Malformed:
    """The spec inside, once it is the one named `swarm` (when given), its creator's, and sound."""
    if swarm is not None and swarm_id_of(signed.spec) != swarm:
        return Malformed("the spec is not the one this swarm id names")
    version = _version(signed.spec)
    if isinstance(version, Malformed):
        return version
    if version > SPEC_VERSION:
        return Malformed(
            f"this swarm needs a newer Shoal: its spec has version {version}, this Shoal reads {SPEC_VERSION}"
        )
    spec = decode(signed.spec, Spec, SPEC_BYTES_MAX)
    if isinstance(spec, Malformed):
        return spec
    if encode(spec) != signed.spec:
        return Malformed("the spec is not in canonical form")
    if not verify(PeerId(spec.creator), _DOMAIN + signed.spec, signed.signature):
        return Malformed("the spec is not signed by its creator")
    wrong = _contradiction(spec)
    return Malformed(wrong) if wrong else spec


def _version(data: bytes) -> int | Malformed:
    """Read before all else: a newer spec may have fields this version would call malformed."""
    fields = decode(data, list[msgspec.Raw], SPEC_BYTES_MAX)
    if isinstance(fields, Malformed):
        return Malformed(f"not a Spec: {fields.reason}")
    if not fields:
        return Malformed("not a Spec: no version")
    version = decode(bytes(fields[0]), int, 16)
    return Malformed("not a Spec: no version") if isinstance(version, Malformed) else version


def _contradiction(spec: Spec) -> str | None:
    """What no single field's bounds can say."""
    if not spec.members_min <= spec.members_start <= spec.members_max:
        return (
            f"members_min ({spec.members_min}) <= members_start ({spec.members_start}) <= "
            f"members_max ({spec.members_max}) does not hold"
        )
    spans = (spec.round_s, spec.grace_s, spec.silence_s)
    settings = (value for value in spec.settings.values() if isinstance(value, float))
    if not all(map(math.isfinite, (*spans, *settings))):
        return "a number in the spec is not finite"
    if list(spec.allowed) != sorted(set(spec.allowed)):
        return "the spec's list of those who are let in is not sorted"
    if spec.allowed and spec.admission is not AdmissionRule.LIST:
        return f"allowed lists peers, and admission is {spec.admission.value!r}: make it 'list'"
    if list(spec.settings) != sorted(spec.settings):
        return "the spec's settings are not sorted by name"
    return None
