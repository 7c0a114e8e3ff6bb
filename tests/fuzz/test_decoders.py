"""Whatever bytes come, every decoder gives a value or one clear refusal, at once and in little memory.

Messages are found by looking through the modules, so a new one is covered as soon as it exists. The counts are per
decoder: 1,000, or 100,000 under SHOAL_SOAK.
"""

import base64
import random
import ssl
import tracemalloc
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import msgpack  # type: ignore[import-untyped]
import msgspec
import pytest
from blake3 import blake3

from shoal.node.complaint import Complaint
from shoal.node.config import parse_config
from shoal.node.invite import Invite, checksum, format_invite, parse_invite
from shoal.node.local_protocol import find_endpoint
from shoal.node.membership import SwarmFolder
from shoal.training.admission import Admission, admits
from shoal.training.agreed import AgreedRecord, read_record, unproved
from shoal.training.calls import Ballots, Words
from shoal.training.checkpoint import Local, Moments, State, load_local, load_state, save_local, save_state
from shoal.training.codecs import CODECS
from shoal.training.diloco_settings import DilocoSettings, parse_settings
from shoal.training.evidence import Evidence, Sketched, Testimony
from shoal.training.payload import check_values, open_payload, write_payload
from shoal.training.ports import BytesReader
from shoal.training.records import Contribution, open_contribution
from shoal.training.remembered import Remembered, Sighting
from shoal.training.skipping import Proof, beginning, verify_proof
from shoal.training.spec import Settings, SignedSpec, Spec, open_spec, sign_spec, spec_from
from shoal.training.store import MemberStore, StoredHead, StoredTurns
from shoal.training.tensors import TensorShape
from shoal.training.votes import fault
from shoal.training.votes import value_of as value_in
from shoal.transport.addresses import parse_endpoint
from shoal.transport.blob_file import read_manifest
from shoal.transport.blob_pins import Pins
from shoal.transport.blobs import Manifest, cid_text, mask_from_bitmap, parse_cid, parse_manifest
from shoal.transport.bulk_link_service import tls_of
from shoal.transport.bulk_messages import (
    BYE,
    FORGET,
    HEAD_BYTES,
    REQUEST_BYTES,
    WANT,
    Request,
    hello_bytes,
    parse_head,
    parse_request,
    token_of,
)
from shoal.transport.credentials_service import Credentials
from shoal.transport.envelope import ReplayWindow, open_direct, open_stored, seal_direct, seal_stored
from shoal.transport.framing import (
    BEGIN,
    END,
    HEAD,
    LENGTH,
    PREAMBLE,
    FrameCutter,
    Kind,
    credit_frame,
    open_head,
    parse_credit,
    parse_open,
    parse_stop,
    stop_frame,
)
from shoal.transport.gossip_service import PUSH, Handover
from shoal.transport.identity import Identity, IdentityError, public_key_of
from shoal.transport.limits import Limits
from shoal.transport.port import Code, Refusal, Unary
from shoal.transport.rpc import Role, Session
from shoal.transport.rpc_events import Closed, Opened, Received
from shoal.transport.token_bucket import TokenBucket
from shoal.transport.wire import Malformed, Message, decode, encode
from shoal.transport.yamux import WINDOWS_BYTES_MAX, Mux
from tests.fuzz.garbage import IS_SOAK, corpus_of, message_types, mutated, value_of

COUNT: Final = 100_000 if IS_SOAK else 1_000
REASON_CHARS_MAX: Final = 4096  # an address stands twice in its own, each of 256 characters escaped as six
MEMORY_BYTES_MAX: Final = 512 * 1024  # of one attempt (a cache of 8,192 whose table grows: 295 KB), on top of
MEMORY_FACTOR: Final = 64  # times what came: a string of one character takes 50 bytes
ME: Final = Identity.from_seed(bytes(32))
SWARM: Final = bytes(range(32))
TYPES: Final = message_types()
SOUND: Final = corpus_of(random.Random(1), TYPES)  # of every message type
LAYOUT: Final = (TensorShape("w", (30, 20)), TensorShape("b", (11,)))
TABLE: Final = {"name": "x", "round_s": 3.5, "members_min": 1, "settings": {"steps": 3, "lr": 1e-3, "codec": "int8"}}
ECHO: Final = Unary("/test/echo", Refusal, Refusal, 1_000, 1_000)


class Refused(Exception):
    """A decoder's refusal, whatever form it has there. The message is its reason."""


Read = Callable[[bytes], object]


def attack(read: Read, corpus: Sequence[bytes], name: str, count: int = COUNT) -> None:
    """Every attempt ends in a value or one refusal with a reason, and none takes more memory than its size allows."""
    chance = random.Random(zlib.crc32(name.encode()))
    for data in corpus:
        with suppress(Refused):
            read(data)  # what is imported and cached the first time is not this attempt's
    tracemalloc.start()
    try:
        for number in range(count):
            data = mutated(chance, corpus)
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            try:
                result = read(data)
            except Refused as refused:
                result = Malformed(str(refused))
            _, peak = tracemalloc.get_traced_memory()
            case = f"{name}, attempt {number}: {data[:200].hex()}"
            assert peak - before <= MEMORY_BYTES_MAX + MEMORY_FACTOR * len(data), f"{peak - before} bytes for {case}"
            if isinstance(result, Malformed):
                assert 0 < len(result.reason) <= REASON_CHARS_MAX, f"{result.reason!r} for {case}"
    finally:
        tracemalloc.stop()


def refusing(read: Callable[[bytes], object], *errors: type[Exception]) -> Read:
    """For decoders that refuse by raising."""

    def call(data: bytes) -> object:
        try:
            return read(data)
        except errors as error:
            raise Refused(str(error)) from error

    return call


def of_text(read: Callable[[str], object]) -> Read:
    return lambda data: read(data.decode(errors="surrogateescape" if b"\x00" in data else "replace"))


@pytest.mark.parametrize("type_", TYPES, ids=lambda type_: type_.__name__)
def test_any_bytes_are_a_message_or_one_refusal(type_: type[Message]) -> None:
    def read(data: bytes) -> object:
        value = decode(data, type_, 2**20)
        if not isinstance(value, Malformed):
            written = encode(value)
            again = decode(written, type_, 2**24)
            assert not isinstance(again, Malformed)
            assert encode(again) == written
        return value

    attack(read, [*corpus_of(random.Random(2), [type_], 20), *SOUND], type_.__name__)


@pytest.mark.parametrize("type_", TYPES, ids=lambda type_: type_.__name__)
def test_messages_are_plain_messagepack_as_everybody_writes_it(type_: type[Message]) -> None:
    chance = random.Random(3)
    independent = cast(Any, msgpack)
    for _ in range(COUNT // 20):
        value = value_of(chance, type_)
        plain = msgspec.to_builtins(value, builtin_types=(bytes, memoryview))
        data = encode(value)
        assert independent.packb(plain) == data
        assert independent.unpackb(data, strict_map_key=False) == msgspec.msgpack.decode(data)
        assert decode(independent.packb(plain), type_, 2**24) == value


# What is built from messages: envelopes, and what they carry, truly signed.


def signed(kind: str, data: bytes) -> bytes:
    return seal_stored(ME, f"shoal/{kind}/2", SWARM, 1, 0, data)


def sealed(type_: Any, kind: str) -> list[bytes]:
    return [signed(kind, encode(value_of(random.Random(4), type_))) for _ in range(5)]


def read_direct(data: bytes) -> object:
    return open_direct(data, "test", ME.peer_id, bytes(16), ReplayWindow(), 2**16)


def read_signed_spec(data: bytes) -> object:
    return open_spec(SignedSpec(data, ME.sign(b"shoal/spec/1\0" + data)))


def read_table(data: bytes) -> object:
    """A spec's table, as it comes to a node from its owner."""
    try:
        values = msgspec.msgpack.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Malformed(str(error))
    return spec_from(values, ME.peer_id, bytes(16))


def judge_ballots(data: bytes) -> object:
    """As if everybody named in them had a vote."""
    ballots = decode(data, Ballots, 2**20)
    if isinstance(ballots, Malformed):
        return ballots
    return [fault(ballot, SWARM, {ME.peer_id}) for ballot in ballots.ballots]


def judge_words(data: bytes) -> object:
    words = decode(data, Words, 2**20)
    if isinstance(words, Malformed):
        return words
    electorate = ORIGIN.electorate.after(1, words.changes)
    assert isinstance(electorate, Malformed) or electorate.digest()
    return unproved(words.changes, SWARM, ORIGIN.electorate, lambda member, admission: 1)


def judge_admission(data: bytes) -> object:
    return admits(spec(), SWARM, ORIGIN, ME.peer_id, data)


def judge_proof(data: bytes) -> object:
    proof = decode(data, Proof, 2**20)
    return proof if isinstance(proof, Malformed) else verify_proof(SWARM, ORIGIN, SWARM, proof)


def spec() -> Spec:
    made = spec_from({"settings": {"steps": 3, "lr": 0.5, "codec": "int8"}}, ME.peer_id, bytes(16))
    assert isinstance(made, Spec)
    return made


ORIGIN: Final = beginning(SWARM, spec())
DIRECT: Final = [seal_direct(ME, "test", ME.peer_id, bytes(16), number, b"x" * number) for number in range(9)]

# What is no message: text, frames, files.

ADDRESS: Final = f"/ip4/192.0.2.1/tcp/4001/p2p/{ME.peer_id}"
TEXTS: Final = [
    text.encode()
    for text in (
        ADDRESS, ME.peer_id, cid_text(bytes(32)), "/dns/example.org/tcp/1", "/ip6/fe80::1/tcp/1", "%é", "/", "~", ".",
        "threads = 3\nlisten = ['/ip4/0.0.0.0/tcp/0']\n[settings]\nsteps = 3\nlr = 1e-3\n", "name = 'x'", "x = inf",
        format_invite(Invite(SWARM, ())), "shoal:", "aaaaaaaa", "=", '{"port":1,"token":"x"}', "seed = nan",
    )
]  # fmt: skip


def read_invite(data: bytes) -> object:
    """With a true checksum over whatever it is."""
    body = b"\x01" + data[:400]
    return parse_invite("shoal:" + base64.b32encode(body + checksum(body)).decode().rstrip("="))


def read_manifest_bytes(data: bytes) -> object:
    """Under its true name: the hash proves nothing."""
    return parse_manifest(data, blake3(data).digest())


def read_settings(data: bytes) -> object:
    parsed = parse_settings(msgspec.json.decode(data, type=Settings))
    return Malformed(parsed) if isinstance(parsed, str) else parsed


def cut_frames(data: bytes) -> object:
    cutter = FrameCutter()
    for start in range(0, len(data), 7):
        cutter.cut(data[start : start + 7])
        assert cutter.held_bytes <= 65_000
    return cutter.violation


def frame(kind: int, call: int, body: bytes, flags: int = 0) -> bytes:
    return HEAD.pack(kind, flags, len(body), call) + body


def frames() -> list[bytes]:
    """Whole conversations with a server, and their parts."""
    message = encode(Refusal(Code.REFUSED, "x"))
    opening = open_head(ECHO.name.encode(), 5.0)
    whole = frame(Kind.OPEN, 1, opening + LENGTH.pack(len(message)) + message, BEGIN | END)
    parts = [
        whole,
        frame(Kind.OPEN, 2, opening),
        frame(Kind.DATA, 2, LENGTH.pack(900) + b"x" * 300, BEGIN),
        frame(Kind.DATA, 2, b"y" * 600, END),
        frame(Kind.OPEN, 3, open_head(b"/test/none", 5.0) + LENGTH.pack(2**31) + b"x", BEGIN),
        credit_frame(2, 2**32 - 1),
        stop_frame(Kind.STOP, 2, Refusal(Code.CANCELLED, "no more")),
        stop_frame(Kind.GOODBYE, 0, None),
    ]
    return [PREAMBLE + b"".join(parts[:length]) for length in range(len(parts) + 1)] + parts


def talk(role: Role, data: bytes) -> object:
    """A session hears `data` in pieces; its owner refuses every call, and the peer reads everything."""
    limits = Limits()
    session = Session(role, limits, {ECHO.name.encode(): ECHO}, TokenBucket(1e6, 10**6))
    if role is Role.CLIENT:
        session.open(ECHO, 5.0, 0.0)
        session.open(ECHO, 5.0, 0.0)
    closed: list[Refusal] = []
    for start in range(0, len(data), 61):
        for event in session.receive(data[start : start + 61], 0.0):
            match event:
                case Closed(refusal):
                    closed.append(refusal)
                case Opened(call):
                    session.stop(call, Refusal(Code.REFUSED, "not today"))
                case Received(call):
                    session.consume(call)
                    session.release(call)
                case _:
                    pass
        assert session.reserved_bytes <= limits.bytes_per_peer_buffered_max
        for _ in range(50):
            written, _ = session.output()
            if not written:
                break
    session.tick(10.0)
    assert session.live_count == 0
    assert len(closed) <= 1
    return Malformed(closed[0].message) if closed else None


def multiplex(data: bytes) -> object:
    mux = Mux(False, 4, 0.0)
    for start in range(0, len(data), 61):
        mux.receive(data[start : start + 61], 0.0)
        while mux.take():
            pass
        assert len(mux.streams) <= 4
        assert sum(len(stream.buffer) for stream in mux.streams.values()) <= WINDOWS_BYTES_MAX + 4 * 2**18
    return None if mux.over is None else Malformed(mux.over)


def yamux(kind: int, flags: int, stream: int, length: int, body: bytes = b"") -> bytes:
    return bytes([0, kind]) + flags.to_bytes(2, "big") + stream.to_bytes(4, "big") + length.to_bytes(4, "big") + body


YAMUX: Final = [
    yamux(0, 1, 1, 5, b"hello") + yamux(0, 4, 1, 3, b"end"),
    yamux(1, 1, 3, 0) + yamux(1, 8, 3, 0),
    yamux(2, 1, 0, 77) * 3,
    yamux(1, 0, 1, 2**32 - 1),
    yamux(3, 0, 0, 1),
    yamux(0, 1, 5, 2**32 - 1),
]


BULK_REQUESTS: Final = [Request(kind, bytes(32), 7, 64, 5).encode() for kind in (WANT, FORGET, BYE)]
CREDENTIALS: Final = Credentials()


def client_hello() -> bytes:
    contexts = CREDENTIALS.contexts(CREDENTIALS.certificate)
    assert not isinstance(contexts, Malformed)
    tls = tls_of(contexts[1], is_server=False, server_name="0123456789abcdef" * 2)
    with suppress(ssl.SSLWantReadError):
        tls.session.do_handshake()
    return tls.outgoing.read()


HELLO: Final = client_hello()
GOSSIP: Final = [encode(Handover("t" * (number + 1), b"x" * number)) for number in range(9)]


@dataclass(frozen=True)
class Decoder:
    read: Read
    corpus: Sequence[bytes]


DECODERS: Final = {
    "stored envelope": Decoder(
        lambda data: open_stored(data, "shoal/contribution/2", SWARM, 2**16), sealed(Contribution, "contribution")
    ),
    "direct envelope": Decoder(read_direct, DIRECT),
    "contribution": Decoder(lambda data: open_contribution(data, SWARM), sealed(Contribution, "contribution")),
    "signed contribution": Decoder(lambda data: open_contribution(signed("contribution", data), SWARM), SOUND),
    "record": Decoder(lambda data: read_record(value_in(data)), corpus_of(random.Random(6), [AgreedRecord], 20)),
    "ballots": Decoder(judge_ballots, corpus_of(random.Random(7), [Ballots], 40)),
    "words": Decoder(judge_words, corpus_of(random.Random(8), [Words], 40)),
    "admission": Decoder(judge_admission, corpus_of(random.Random(9), [Admission], 20)),
    "proof": Decoder(judge_proof, corpus_of(random.Random(10), [Proof], 10)),
    "signed spec": Decoder(read_signed_spec, [sign_spec(spec(), ME).spec, *SOUND]),
    "spec": Decoder(read_table, [msgspec.msgpack.encode(TABLE), *SOUND]),
    "manifest": Decoder(read_manifest_bytes, [encode(Manifest(1, 2**20 + 1, bytes(64))), *SOUND]),
    "CID": Decoder(of_text(parse_cid), TEXTS),
    "bitmap": Decoder(lambda data: mask_from_bitmap(data, 12), [b"\xff\x0f", b"", b"\x00"]),
    "address": Decoder(of_text(parse_endpoint), TEXTS),
    "peer id": Decoder(of_text(public_key_of), TEXTS),
    "frames": Decoder(cut_frames, frames()),
    "opening": Decoder(parse_open, [open_head(b"/test/1", 5.0) + b"rest"]),
    "stop": Decoder(parse_stop, [stop_frame(Kind.STOP, 1, Refusal(Code.BUSY, "é" * 200))[HEAD.size :]]),
    "credit": Decoder(parse_credit, [credit_frame(1, 2**32 - 1)[HEAD.size :]]),
    "call server": Decoder(partial(talk, Role.SERVER), frames()),
    "call client": Decoder(partial(talk, Role.CLIENT), frames()),
    "yamux": Decoder(multiplex, YAMUX),
    "gossip": Decoder(lambda data: decode(data, Handover, PUSH.request_bytes_max), GOSSIP),
    "bulk request": Decoder(lambda data: parse_request(data.ljust(REQUEST_BYTES)[:REQUEST_BYTES]), BULK_REQUESTS),
    "bulk head": Decoder(lambda data: parse_head(data.ljust(HEAD_BYTES)[:HEAD_BYTES]), [bytes([1, *bytes(8)])]),
    "TLS's beginning": Decoder(lambda data: (hello_bytes(data[:5]), token_of(data)), [HELLO]),
    "certificate": Decoder(CREDENTIALS.contexts, [CREDENTIALS.certificate]),
    "invite": Decoder(refusing(of_text(parse_invite), Complaint), TEXTS),
    "checked invite": Decoder(refusing(read_invite, Complaint), SOUND),
    "config": Decoder(refusing(of_text(lambda text: parse_config(text, "config.toml")), Complaint), TEXTS),
    "settings": Decoder(
        refusing(read_settings, msgspec.DecodeError, UnicodeDecodeError, RecursionError),
        [msgspec.json.encode(DilocoSettings()), b"{}"],
    ),
}


@pytest.mark.parametrize("name", DECODERS)
def test_any_bytes_are_a_value_or_one_refusal(name: str) -> None:
    attack(DECODERS[name].read, DECODERS[name].corpus, name)


# Tensors.


def saved_state() -> bytes:
    import numpy as np

    vector = np.linspace(-1, 1, 611, dtype=np.float32)
    testimony = Testimony((Evidence(9, 256, 8, 1, 0),), (Sketched((bytes(128),), (bytes(128),)),))
    remembered = Remembered((Sighting("a" * 52, 2), Sighting("b" * 52, 3)), testimony)
    return b"".join(bytes(piece) for piece in save_state(State(3, vector, vector, remembered), LAYOUT))


def saved_local() -> bytes:
    import numpy as np

    vector = np.linspace(0, 1, 611, dtype=np.float32)
    return b"".join(bytes(piece) for piece in save_local(Local(Moments(2, vector, vector), 0.5, vector), LAYOUT))


@pytest.mark.parametrize("codec", CODECS)
def test_any_bytes_are_a_payload_of_finite_values_or_one_refusal(codec: str) -> None:
    import numpy as np

    def read(data: bytes) -> object:
        delta = open_payload(BytesReader(data), codec, LAYOUT)
        if isinstance(delta, Malformed):
            return delta
        problem = check_values(delta)
        assert problem is not None or np.isfinite(delta.values(0, delta.count)).all()
        return problem

    attack(
        read, [b"".join(write_payload(codec, LAYOUT, np.linspace(-1, 1, 611, dtype=np.float32)))], f"payload {codec}"
    )


def test_any_bytes_are_a_state_or_one_refusal() -> None:
    attack(refusing(lambda data: load_state(BytesReader(data), LAYOUT, 1e6), ValueError), [saved_state()], "state")
    attack(refusing(lambda data: load_local(BytesReader(data), LAYOUT), ValueError), [saved_local()], "local")


# Files: another program, a power loss or a full disk may have spoiled them.


def read_file(path: Path, read: Callable[[], object]) -> Read:
    def call(data: bytes) -> object:
        path.write_bytes(data)
        return read()

    return call


def test_any_file_is_read_or_refused_once(tmp_path: Path) -> None:
    count = COUNT // 10
    store = MemberStore(tmp_path)
    heads = corpus_of(random.Random(5), [StoredHead])
    attack(read_file(tmp_path / "head", store.load_head), heads, "head", count)
    turns = corpus_of(random.Random(11), [StoredTurns], 10)
    attack(read_file(tmp_path / "turns", store.load_turns), turns, "turns", count)
    attack(read_file(tmp_path / "sequence", store.next_sequence), SOUND, "sequence", count // 10)
    pins = [b'{"label":"x","blob":"%s"}\n' % cid_text(bytes(32)).encode(), b'{"label":"x"}\n', b"\x00" * 20]
    attack(read_file(tmp_path / "pins.jsonl", lambda: Pins(tmp_path / "pins.jsonl")), pins, "pins", count)
    manifest = encode(Manifest(1, 3, bytes(32)))
    blob = b"abc" + manifest + len(manifest).to_bytes(4, "big")
    digest = blake3(manifest).digest()
    attack(read_file(tmp_path / "blob", lambda: read_manifest(tmp_path / "blob", digest)), [blob], "blob", count)


def test_any_file_of_the_nodes_owner_is_read_or_complained_of(tmp_path: Path) -> None:
    count = COUNT // 10
    api = refusing(read_file(tmp_path / "api.json", lambda: find_endpoint(tmp_path)), Complaint)
    attack(api, [b'{"port":1,"token":"x"}', *TEXTS], "api.json", count)
    folder = SwarmFolder(tmp_path, SWARM)
    folder.path.mkdir()
    (folder.path / "spec").write_bytes(encode(sign_spec(spec(), ME)))
    member = refusing(read_file(folder.path / "member.json", folder.read), Complaint)
    attack(member, [b'{"role":"train","known":{"p":["/ip4/"]}}', *TEXTS], "member.json", count)
    key = tmp_path / "identity.key"
    ME.write(key)
    sound = key.read_bytes()
    attack(refusing(read_file(key, lambda: Identity.load_or_create(key)), IdentityError), [sound], "key", count)
