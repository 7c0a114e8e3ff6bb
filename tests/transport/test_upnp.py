"""What a router says by UPnP, and what a device that lies can bring about."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.transport.port_mapping import Answer, Granted, Homeless, PermanentOnly, Refused, Taken
from shoal.transport.upnp import (
    CONTROLS_MAX,
    SEARCH_BYTES_MAX,
    TEXT_BYTES_MAX,
    Control,
    Place,
    action,
    added_entry,
    is_others,
    read_added,
    read_address,
    read_description,
    read_found,
    search,
)
from shoal.transport.wire import Malformed

ROUTER = "192.168.1.1"
PLACE = Place(ROUTER, 35811, "/rootDesc.xml")
IP = "urn:schemas-upnp-org:service:WANIPConnection:1"
PPP = "urn:schemas-upnp-org:service:WANPPPConnection:1"


def found(location: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nEXT:\r\nLOCATION: {location}\r\n\r\n".encode()


def service(type_: str, url: str) -> str:
    return f"<service><serviceType>{type_}</serviceType><controlURL>{url}</controlURL></service>"


def description(*services: str, base: str = "") -> bytes:
    return f'<?xml version="1.0"?><root>{base}<device>{"".join(services)}</device></root>'.encode()


def error(code: int) -> bytes:
    return f"<s:Fault><detail><UPnPError><errorCode>{code}</errorCode></UPnPError></detail></s:Fault>".encode()


def test_a_router_names_its_description() -> None:
    assert read_found(found("http://192.168.1.1:35811/rootDesc.xml"), ROUTER, None) == PLACE
    assert read_found(found("http://192.168.1.1/"), ROUTER, ROUTER) == Place(ROUTER, 80, "/")
    assert b"\r\nST: x\r\n" in search("x")


@pytest.mark.parametrize(
    ("location", "sender"),
    [
        ("http://203.0.113.9/rootDesc.xml", ROUTER),  # a third party
        ("http://127.0.0.1:4011/", ROUTER),  # ourselves
        ("http://192.168.1.2/", ROUTER),  # a neighbour
        ("http://192.168.1.1@203.0.113.9/", ROUTER),
        ("https://192.168.1.1/", ROUTER),
        ("file:///etc/passwd", ROUTER),
        ("http://192.168.1.1:99999/", ROUTER),
        ("http://192.168.1.1/" + "x" * 300, ROUTER),
        ("http://192.168.1.1/\u00e9", ROUTER),
        ("http://5.9.9.9/", "5.9.9.9"),  # not of our network, nor the gateway
        ("http://127.0.0.1/", "127.0.0.1"),
        ("http://[::1/", ROUTER),
        ("", ROUTER),
    ],
)
def test_what_leads_elsewhere_than_to_its_sender_is_refused(location: str, sender: str) -> None:
    assert isinstance(read_found(found(location), sender, ROUTER), Malformed)


def test_a_gateway_with_a_public_address_is_believed() -> None:
    assert read_found(found("http://203.0.113.9/d"), "203.0.113.9", "203.0.113.9") == Place("203.0.113.9", 80, "/d")


def test_connections_are_read_from_a_description_with_and_without_a_base() -> None:
    both = description(
        service("urn:schemas-upnp-org:service:Layer3Forwarding:1", "/l3"), service(PPP, "ppp"), service(IP, "/ip?x")
    )
    assert read_description(both, PLACE) == [
        Control(Place(ROUTER, 35811, "/ppp"), PPP),
        Control(Place(ROUTER, 35811, "/ip?x"), IP),
    ]
    based = description(service(IP, "ctl"), base="<URLBase>http://192.168.1.1:80/igd/</URLBase>")
    assert read_description(based, PLACE) == [Control(Place(ROUTER, 80, "/igd/ctl"), IP)]


@pytest.mark.parametrize(
    "data",
    [
        description(),
        description(service(IP, "http://203.0.113.9/ctl")),
        description(service(IP, "//203.0.113.9/ctl")),
        description(service(IP, "/ctl"), base="<URLBase>http://203.0.113.9/</URLBase>"),
        description(service(IP, "/ctl"), base="<URLBase>nonsense</URLBase>"),
        description(service(IP + "\r\nX: y", "/ctl")),  # would stand in a header of ours
        description(service(IP, "/ctl HTTP/1.1\r\nX: y")),
        description(service(IP, "/" + "x" * 300)),
        description(service(IP, "/ctl")) + b" " * TEXT_BYTES_MAX,
    ],
)
def test_a_description_that_leads_elsewhere_or_nowhere_is_refused(data: bytes) -> None:
    assert isinstance(read_description(data, PLACE), Malformed)


def test_a_description_of_many_connections_has_few() -> None:
    controls = read_description(description(*[service(IP, "/ctl")] * 50), PLACE)
    assert isinstance(controls, list)
    assert len(controls) == CONTROLS_MAX


def test_an_action_is_what_the_description_calls_it() -> None:
    headers, body = action(Control(PLACE, IP), "AddPortMapping", added_entry("192.168.1.10", 4011, 5000, 3600))
    assert dict(headers)["SOAPAction"] == f'"{IP}#AddPortMapping"'
    assert f'<u:AddPortMapping xmlns:u="{IP}">'.encode() in body
    for part in ("<NewExternalPort>5000<", "<NewInternalPort>4011<", "<NewInternalClient>192.168.1.10<"):
        assert part.encode() in body


def test_the_address_is_read_or_there_is_none() -> None:
    answer = "<NewExternalIPAddress>{}</NewExternalIPAddress>"
    assert read_address(200, answer.format("5.0.1.2").encode()) == "5.0.1.2"
    for text in ("", "0.0.0.0", "x" * 100, "5.0.1.2" * 100):
        assert read_address(200, answer.format(text).encode()) is None
    assert read_address(500, answer.format("5.0.1.2").encode()) is None


@pytest.mark.parametrize(
    ("status", "data", "host", "answer"),
    [
        (200, b"", "5.0.1.2", Granted("5.0.1.2", 4011, 60)),
        (200, b"", None, Homeless(None)),
        (500, error(718), "5.0.1.2", Taken()),
        (500, error(725), "5.0.1.2", PermanentOnly()),
        (500, error(501), None, Homeless(None)),  # as miniupnpd behind a carrier's router
        (500, error(501), "5.0.1.2", Refused("action failed")),
        (500, error(99999), "5.0.1.2", Refused("error 99999")),
        (500, b"\xff" * 100, "5.0.1.2", Refused("HTTP status 500")),
    ],
)
def test_what_adding_brings_is_read(status: int, data: bytes, host: str | None, answer: Answer) -> None:
    assert read_added(status, data, host, 4011, 60) == answer


def test_a_lease_for_ever_has_no_end() -> None:
    assert read_added(200, b"", "5.0.1.2", 4011, 0) == Granted("5.0.1.2", 4011, None)


def test_a_mapping_of_another_computer_is_not_ours() -> None:
    entry = b"<NewInternalClient>192.168.1.11</NewInternalClient>"
    assert is_others(200, entry, "192.168.1.10")
    assert not is_others(200, entry, "192.168.1.11")
    assert not is_others(500, entry, "192.168.1.10")
    assert not is_others(200, b"", "192.168.1.10")


@given(st.binary(max_size=3000))
def test_any_bytes_are_a_value_or_malformed(data: bytes) -> None:
    assert isinstance(read_found(data, ROUTER, None), Place | Malformed)
    assert isinstance(read_found(found("")[:-4] + data, ROUTER, None), Place | Malformed)
    assert isinstance(read_description(data, PLACE), list | Malformed)
    read_address(200, data)
    read_added(500, data, None, 1, 1)


@pytest.mark.parametrize(
    "piece", ["<service>", "<URLBase>", "<controlURL>", "<serviceType> ", "<serviceType>urn:", "<errorCode", "<a:", " "]
)
def test_no_text_keeps_us_busy(piece: str) -> None:
    data = (piece * TEXT_BYTES_MAX)[:TEXT_BYTES_MAX].encode()
    began = time.process_time()
    read_description(data, PLACE)
    read_address(200, data)
    read_added(500, data, None, 1, 1)
    is_others(200, data, ROUTER)
    read_found(data[:SEARCH_BYTES_MAX], ROUTER, None)
    assert time.process_time() - began < 1.0
