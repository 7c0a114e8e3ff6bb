"""The datagrams of PCP and NAT-PMP, as the RFCs draw them and as miniupnpd 2.3.1 sends them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.transport.pcp import (
    RESPONSE_BYTES_MAX,
    nat_pmp_address_request,
    nat_pmp_request,
    pcp_request,
    read_nat_pmp,
    read_nat_pmp_address,
    read_pcp,
)
from shoal.transport.port_mapping import Answer, Granted, Homeless, OtherVersion, Refused
from shoal.transport.wire import Malformed

NONCE = b"n" * 12
PORT = 4013
HOME = "5.0.1.2"
# Sent by miniupnpd to the request below: granted, and behind a carrier's router.
GRANTED = bytes.fromhex(
    "028100000000003c000000030000000000000000000000006e6e6e6e6e6e6e6e6e6e6e6e060000000fad0fad00000000000000000000ffff05000102"
)
BEHIND_A_CARRIER = bytes.fromhex(
    "028100080000001e000000030000000000000000000000006e6e6e6e6e6e6e6e6e6e6e6e060000000fad0fad00000000000000000000ffff64400002"
)
NAT_PMP_ADDRESS = bytes.fromhex("008000000000000305000102")
NAT_PMP_GRANTED = bytes.fromhex("00820000000000030fad0fac0000003c")
NAT_PMP_HOMELESS = bytes.fromhex("008000030000000300000000")


def with_byte(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + bytes([value]) + data[at + 1 :]


def test_requests_are_as_the_rfcs_draw_them() -> None:
    assert pcp_request("192.168.1.10", NONCE, PORT, 5000, 3600) == (
        bytes([2, 1, 0, 0]) + (3600).to_bytes(4, "big")  # version, MAP, reserved, lifetime
        + bytes(10) + b"\xff\xff" + bytes([192, 168, 1, 10])  # the client
        + NONCE + bytes([6, 0, 0, 0]) + PORT.to_bytes(2, "big") + (5000).to_bytes(2, "big")
        + bytes(10) + b"\xff\xff" + bytes(4)  # any external address
    )  # fmt: skip
    assert nat_pmp_address_request() == bytes(2)
    assert nat_pmp_request(PORT, 5000, 3600) == (
        bytes([0, 2, 0, 0]) + PORT.to_bytes(2, "big") + (5000).to_bytes(2, "big") + (3600).to_bytes(4, "big")
    )
    assert nat_pmp_request(PORT, 5000, 0)[6:] == bytes(6)  # what takes a mapping away names no external port


def test_what_miniupnpd_grants_is_read() -> None:
    assert read_pcp(GRANTED, NONCE, PORT) == Granted(HOME, PORT, 60, 3)
    assert read_nat_pmp_address(NAT_PMP_ADDRESS) == HOME
    assert read_nat_pmp(NAT_PMP_GRANTED, HOME, PORT) == Granted(HOME, 4012, 60, 3)


def test_a_router_without_a_public_address_is_told_from_one_that_refuses() -> None:
    assert read_pcp(BEHIND_A_CARRIER, NONCE, PORT) == Homeless("100.64.0.2")
    assert read_pcp(with_byte(GRANTED, 3, 7), NONCE, PORT) == Homeless(HOME)
    assert read_nat_pmp_address(NAT_PMP_HOMELESS) == Homeless(None)
    assert read_pcp(with_byte(GRANTED, 3, 2), NONCE, PORT) == Refused("not authorized")
    assert read_nat_pmp(with_byte(NAT_PMP_GRANTED, 3, 2), HOME, PORT) == Refused("not authorized")
    assert read_pcp(with_byte(GRANTED, 3, 200), NONCE, PORT) == Refused("result 200")


@pytest.mark.parametrize(
    "answer",
    [
        bytes([0, 128 + 1, 0, 1, 0, 0, 0, 9]),  # of NAT-PMP, as its RFC wants it (section 3.5)
        bytes([0, 128, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0]),
        bytes([1, 129, 0, 1]) + bytes(20),  # of another PCP
        with_byte(GRANTED, 3, 1),
    ],
)
def test_a_router_of_another_version_is_recognized_by_who_asks_by_pcp(answer: bytes) -> None:
    assert read_pcp(answer, NONCE, PORT) == OtherVersion()


@pytest.mark.parametrize("answer", [bytes([2, 128, 0, 1]) + bytes(20), bytes([0, 128, 0, 1, 0, 0, 0, 9])])
def test_and_by_who_asks_by_nat_pmp(answer: bytes) -> None:
    assert read_nat_pmp_address(answer) == OtherVersion()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        GRANTED[:23],
        GRANTED[:-1],
        GRANTED.replace(NONCE, b"x" * 12),
        with_byte(GRANTED, 36, 17),  # UDP
        with_byte(GRANTED, 41, 1),  # another port
        with_byte(GRANTED, 1, 1),  # our own request, sent back
        with_byte(GRANTED, 55, 0),  # an IPv6 address
        GRANTED[:-4] + bytes(4),
        GRANTED + bytes(RESPONSE_BYTES_MAX),
    ],
)
def test_what_answers_no_request_of_ours_is_malformed(data: bytes) -> None:
    assert isinstance(read_pcp(data, NONCE, PORT), Malformed)


def test_a_mapping_of_another_port_or_a_part_of_one_is_malformed() -> None:
    assert isinstance(read_nat_pmp(NAT_PMP_GRANTED, HOME, PORT + 1), Malformed)
    assert isinstance(read_nat_pmp(NAT_PMP_GRANTED[:-1], HOME, PORT), Malformed)
    assert isinstance(read_nat_pmp(NAT_PMP_ADDRESS, HOME, PORT), Malformed)
    assert isinstance(read_nat_pmp_address(NAT_PMP_GRANTED), Malformed)
    assert isinstance(read_nat_pmp_address(bytes(2)), Malformed)


@given(st.binary(max_size=1200) | st.builds(with_byte, st.just(GRANTED), st.integers(0, 59), st.integers(0, 255)))
def test_any_bytes_are_an_answer_or_malformed(data: bytes) -> None:
    for read in (
        read_pcp(data, NONCE, PORT),
        read_nat_pmp(data, HOME, PORT),
        read_nat_pmp_address(data),
    ):
        assert isinstance(read, str | Answer | Malformed)
        assert not isinstance(read, Granted) or 0 <= read.port < 65_536
