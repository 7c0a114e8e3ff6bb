"""Whatever bytes a home's router sends, every decoder gives a value or one refusal, at once and in little memory."""

from typing import Final

import pytest

from shoal.transport.pcp import read_nat_pmp, read_nat_pmp_address, read_pcp
from shoal.transport.upnp import Place, is_others, read_added, read_address, read_description, read_found
from tests.fuzz.test_decoders import Decoder, attack
from tests.transport.test_pcp import (
    BEHIND_A_CARRIER,
    GRANTED,
    HOME,
    NAT_PMP_ADDRESS,
    NAT_PMP_GRANTED,
    NAT_PMP_HOMELESS,
    NONCE,
    PORT,
)
from tests.transport.test_upnp import IP, PLACE, PPP, ROUTER, description, error, found, service

DATAGRAMS: Final = [GRANTED, BEHIND_A_CARRIER, NAT_PMP_ADDRESS, NAT_PMP_GRANTED, NAT_PMP_HOMELESS]
PAGES: Final = [
    description(service(IP, "/ctl"), service(PPP, "http://192.168.1.1/ppp")),
    description(service(IP, "ctl"), base="<URLBase>http://192.168.1.1:80/igd/</URLBase>"),
    error(718),
    b"<NewExternalIPAddress>5.0.1.2</NewExternalIPAddress>",
    b"<NewInternalClient>192.168.1.11</NewInternalClient>",
]


def read_controls(data: bytes) -> object:
    """Whoever is asked afterwards is the router."""
    controls = read_description(data, PLACE)
    assert not isinstance(controls, list) or {control.place.host for control in controls} == {ROUTER}
    return controls


def read_place(data: bytes) -> object:
    place = read_found(data, ROUTER, None)
    assert not isinstance(place, Place) or place.host == ROUTER
    return place


DECODERS: Final = {
    "PCP": Decoder(lambda data: read_pcp(data, NONCE, PORT), DATAGRAMS),
    "NAT-PMP": Decoder(lambda data: read_nat_pmp(data, HOME, PORT), DATAGRAMS),
    "NAT-PMP address": Decoder(read_nat_pmp_address, DATAGRAMS),
    "UPnP search": Decoder(read_place, [found("http://192.168.1.1:35811/rootDesc.xml"), *PAGES]),
    "UPnP description": Decoder(read_controls, PAGES),
    "UPnP address": Decoder(lambda data: read_address(200, data), PAGES),
    "UPnP entry": Decoder(lambda data: is_others(200, data, ROUTER), PAGES),
    "UPnP added": Decoder(lambda data: read_added(500, data, HOME, PORT, 60), PAGES),
}


@pytest.mark.parametrize("name", DECODERS)
def test_any_bytes_are_a_value_or_one_refusal(name: str) -> None:
    attack(DECODERS[name].read, DECODERS[name].corpus, name)
