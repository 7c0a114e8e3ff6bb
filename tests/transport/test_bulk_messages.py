"""The bytes of bulk connections: what is written is read again, and whatever comes is a value or one refusal."""

import ssl
from contextlib import suppress

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from shoal.transport.blobs import CHUNK_BYTES, CHUNKS_MAX, HASH_BYTES, RUN_CHUNKS_MAX
from shoal.transport.bulk_link_service import tls_of
from shoal.transport.bulk_messages import (
    BYE,
    CERTIFICATE_BYTES_MAX,
    CHUNK,
    COME,
    FAREWELL,
    FORGET,
    HEAD_BYTES,
    HELLO_BYTES_MAX,
    MEET,
    RECORD_HEAD_BYTES,
    REFUSED,
    REQUEST_BYTES,
    TEXT_BYTES_MAX,
    TLS_FIRST,
    TOKEN_CHARS,
    WANT,
    Come,
    Coming,
    Head,
    Meet,
    Met,
    Request,
    hello_bytes,
    parse_head,
    parse_request,
    token_of,
    write_head,
)
from shoal.transport.credentials_service import Credentials
from shoal.transport.wire import Malformed, decode, encode

U32 = st.integers(0, 2**32 - 1)
tokens = st.text("0123456789abcdef", min_size=TOKEN_CHARS, max_size=TOKEN_CHARS)
certificates = st.binary(min_size=1, max_size=CERTIFICATE_BYTES_MAX)
runs = st.integers(1, RUN_CHUNKS_MAX).flatmap(
    lambda count: st.tuples(st.integers(0, CHUNKS_MAX - count), st.just(count))
)
CREDENTIALS = Credentials()


@given(
    kind=st.sampled_from([WANT, FORGET, BYE]),
    digest=st.binary(min_size=HASH_BYTES, max_size=HASH_BYTES),
    run=runs,
    skip=st.integers(0, CHUNK_BYTES - 1),
)
def test_requests_come_out_as_they_went_in(kind: int, digest: bytes, run: tuple[int, int], skip: int) -> None:
    request = Request(kind, digest, *run, skip)
    data = request.encode()
    assert len(data) == REQUEST_BYTES
    assert parse_request(data) == request


@given(data=st.binary(min_size=REQUEST_BYTES, max_size=REQUEST_BYTES), kind=st.integers(0, 5))
def test_any_bytes_are_a_request_within_its_bounds_or_one_refusal(data: bytes, kind: int) -> None:
    for each in (data, bytes([kind]) + data[1:], bytes([kind]) + data[1 : 1 + HASH_BYTES] + bytes(12)):
        request = parse_request(memoryview(each))
        if isinstance(request, Malformed):
            assert 0 < len(request.reason) < 200
        else:
            assert request.encode() == each
            assert request.kind in (WANT, FORGET, BYE)
            assert 1 <= request.count <= RUN_CHUNKS_MAX
            assert request.first + request.count <= CHUNKS_MAX
            assert request.skip < CHUNK_BYTES


def test_the_bounds_of_a_request_are_where_they_are_said_to_be() -> None:
    sound = [Request(WANT), Request(WANT, first=CHUNKS_MAX - 1), Request(WANT, first=CHUNKS_MAX - 64, count=64)]
    for request in [*sound, Request(WANT, skip=CHUNK_BYTES - 1)]:
        assert parse_request(request.encode()) == request
    odd = [Request(0), Request(4), Request(WANT, count=0), Request(WANT, count=RUN_CHUNKS_MAX + 1)]
    odd += [Request(WANT, first=CHUNKS_MAX), Request(WANT, first=2**32 - 1, count=64), Request(WANT, skip=CHUNK_BYTES)]
    for request in odd:
        assert isinstance(parse_request(request.encode()), Malformed)


@given(kind=st.integers(0, 255), index=U32, length=U32 | st.sampled_from([0, TEXT_BYTES_MAX, CHUNK_BYTES]))
def test_heads_come_out_as_they_went_in_or_are_refused(kind: int, index: int, length: int) -> None:
    head, buffer = Head(kind, index, length), bytearray(HEAD_BYTES + 5)
    write_head(buffer, 3, head)
    assert buffer[:3] + buffer[3 + HEAD_BYTES :] == bytes(5)
    found = parse_head(memoryview(buffer)[3 : 3 + HEAD_BYTES])
    most = {CHUNK: CHUNK_BYTES, REFUSED: TEXT_BYTES_MAX, FAREWELL: TEXT_BYTES_MAX}.get(kind, -1)
    assert isinstance(found, Malformed) if length > most else found == head


@given(token=tokens, certificate=certificates)
def test_words_over_libp2p_come_out_as_they_went_in_within_their_methods_bounds(token: str, certificate: bytes) -> None:
    for message, bytes_max in (
        (Meet(certificate), MEET.request_bytes_max),
        (Met(certificate, token), MEET.reply_bytes_max),
        (Come(token), COME.request_bytes_max),
        (Coming(), COME.reply_bytes_max),
    ):
        assert decode(encode(message), type(message), bytes_max) == message


@given(text=st.text(max_size=40) | tokens.map(lambda token: token[:-1] + "\n") | tokens.map(str.upper))
def test_a_token_is_32_hexadecimal_digits_and_nothing_else(text: str) -> None:
    is_token = len(text) == TOKEN_CHARS and set(text) <= set("0123456789abcdef")
    for data, type_ in ((encode((text,)), Come), (encode((b"x", text)), Met)):
        assert isinstance(decode(data, type_, 1024), Malformed) != is_token


def test_certificates_have_bounds() -> None:
    for certificate in (b"", bytes(CERTIFICATE_BYTES_MAX + 1)):
        assert isinstance(decode(msgspec.msgpack.encode((certificate,)), Meet, 1024), Malformed)
    assert 200 < len(CREDENTIALS.certificate) <= CERTIFICATE_BYTES_MAX


def client_hello(name: str | None) -> bytes:
    contexts = CREDENTIALS.contexts(CREDENTIALS.certificate)
    assert not isinstance(contexts, Malformed)
    tls = tls_of(contexts[1], is_server=False, server_name=name)
    with suppress(ssl.SSLWantReadError):
        tls.session.do_handshake()
    return tls.outgoing.read()


@given(token=tokens)
def test_the_token_is_found_in_the_first_message_that_openssl_writes(token: str) -> None:
    hello = client_hello(token)
    assert hello[:1] == TLS_FIRST
    assert hello_bytes(hello[:RECORD_HEAD_BYTES]) == len(hello) - RECORD_HEAD_BYTES
    assert token_of(hello) == token


def test_other_names_are_no_tokens() -> None:
    digits = "0" * TOKEN_CHARS
    for name in (None, "example.org", "0" * 31, "0" * 33, "A" * TOKEN_CHARS, f"{digits}.example.org"):
        assert token_of(client_hello(name)) is None
    assert token_of(client_hello(digits).replace(b"0" * TOKEN_CHARS, b"\xff" * TOKEN_CHARS)) is None


@given(data=st.binary(max_size=700), cut=st.integers(0, 600))
def test_any_beginning_of_tls_is_measured_or_refused(data: bytes, cut: int) -> None:
    for each in (data, client_hello("0" * TOKEN_CHARS)[:cut] + data):
        length = hello_bytes(each[:RECORD_HEAD_BYTES])
        assert isinstance(length, Malformed) or 0 <= length <= HELLO_BYTES_MAX
        token = token_of(each)
        assert token is None or len(token) == TOKEN_CHARS
    assert isinstance(hello_bytes(b"\x16\x03\x01" + (HELLO_BYTES_MAX + 1).to_bytes(2, "big")), Malformed)
