"""The datagrams of PCP (RFC 6887) and NAT-PMP (RFC 6886), both for TCP mappings at UDP port 5351 of a router.

PCP is the successor and answers in one datagram what NAT-PMP answers in two: the mapping, and the router's address. A
router that speaks only one of them answers the other one's requests with its own version.

What a malicious router may send: any bytes. What it achieves: an Answer with numbers in their bounds, or one Malformed,
which nobody waits for. PCP's nonce keeps those who cannot read our requests from answering them, and from taking our
mapping away; NAT-PMP has none.
"""

import ipaddress
import struct
from typing import Final

from .port_mapping import Answer, Granted, Homeless, OtherVersion, Refused, is_public
from .wire import Malformed

ROUTER_PORT: Final = 5351
RESPONSE_BYTES_MAX: Final = 1100  # RFC 6887, section 7
NONCE_BYTES: Final = 12
TCP: Final = 6
_PCP_VERSION, _NAT_PMP_VERSION = 2, 0
_IS_RESPONSE: Final = 128
_MAP: Final = 1
_ADDRESS_REQUEST, _TCP_REQUEST = 0, 2  # of NAT-PMP
_UNSUPPORTED_VERSION: Final = 1  # the same number in both
_PCP_REQUEST: Final = struct.Struct(">BBHI16s12sB3xHH16s")
_PCP_HEADER: Final = struct.Struct(">BBBBII12x")
_PCP_MAPPING: Final = struct.Struct(">12sB3xHH16s")
_NAT_PMP_REQUEST: Final = struct.Struct(">BBHHHI")
_NAT_PMP_HEADER: Final = struct.Struct(">BBHI")
_NAT_PMP_ADDRESS: Final = struct.Struct(">4s")
_NAT_PMP_MAPPING: Final = struct.Struct(">HHI")
_PCP_NETWORK_FAILURE: Final = 7
_PCP_WORDS: Final = {
    2: "not authorized",
    3: "malformed request",
    4: "unsupported operation",
    5: "unsupported option",
    6: "malformed option",
    8: "no resources",
    9: "unsupported protocol",
    10: "this computer has too many mappings",
    11: "the port cannot be provided",
    12: "our address is not the one it sees: another router stands between",
    13: "too many peers",
}
_NAT_PMP_NETWORK_FAILURE: Final = 3
_NAT_PMP_WORDS: Final = {2: "not authorized", 4: "out of resources", 5: "unsupported operation"}


def pcp_request(client: str, nonce: bytes, port: int, external_port: int, lease_s: int) -> bytes:
    """Map `port` of `client`, the IPv4 address we send from. A lease of 0 takes the mapping away."""
    return _PCP_REQUEST.pack(
        _PCP_VERSION, _MAP, 0, lease_s, _mapped(client), nonce, TCP, port, external_port, _mapped("0.0.0.0")
    )


def read_pcp(data: bytes, nonce: bytes, port: int) -> Answer | Malformed:
    """What the router says to `pcp_request`."""
    if len(data) > RESPONSE_BYTES_MAX:
        return Malformed(f"a PCP response of {len(data)} bytes; {RESPONSE_BYTES_MAX} are allowed")
    if _is_other_version(data, _PCP_VERSION):
        return OtherVersion()
    if len(data) < _PCP_HEADER.size:
        return Malformed(f"a PCP response of {len(data)} bytes")
    version, operation, _, result, lease_s, epoch_s = _PCP_HEADER.unpack_from(data)
    if (version, operation) != (_PCP_VERSION, _IS_RESPONSE | _MAP):
        return Malformed(f"a PCP response of version {version} to operation {operation}")
    if result == _UNSUPPORTED_VERSION:
        return OtherVersion()
    if len(data) < _PCP_HEADER.size + _PCP_MAPPING.size:
        return Malformed(f"a PCP response of {len(data)} bytes")
    its_nonce, protocol, its_port, external_port, packed = _PCP_MAPPING.unpack_from(data, _PCP_HEADER.size)
    if (its_nonce, protocol, its_port) != (nonce, TCP, port):
        return Malformed("a PCP response to another request")
    mapped = ipaddress.IPv6Address(packed).ipv4_mapped
    host = None if mapped is None or mapped.is_unspecified else str(mapped)
    if result == 0:
        if host is None and lease_s:
            return Malformed("a PCP response without an IPv4 address")
        return Granted(host or "0.0.0.0", external_port, lease_s, epoch_s)
    if result == _PCP_NETWORK_FAILURE or (host is not None and not is_public(host)):
        return Homeless(host)  # miniupnpd says "no resources", and its address
    return Refused(_PCP_WORDS.get(result, f"result {result}"))


def nat_pmp_address_request() -> bytes:
    return bytes([_NAT_PMP_VERSION, _ADDRESS_REQUEST])


def read_nat_pmp_address(data: bytes) -> str | Answer | Malformed:
    """The router's address, or why there is none."""
    header = _nat_pmp_header(data, _ADDRESS_REQUEST, _NAT_PMP_ADDRESS)
    if not isinstance(header, int):
        return header
    return str(ipaddress.IPv4Address(_NAT_PMP_ADDRESS.unpack_from(data, _NAT_PMP_HEADER.size)[0]))


def nat_pmp_request(port: int, external_port: int, lease_s: int) -> bytes:
    """Map `port` of the address we send from. A lease of 0 takes the mapping away, and wants external port 0."""
    return _NAT_PMP_REQUEST.pack(_NAT_PMP_VERSION, _TCP_REQUEST, 0, port, external_port if lease_s else 0, lease_s)


def read_nat_pmp(data: bytes, host: str, port: int) -> Answer | Malformed:
    """What the router, whose address is `host`, says to `nat_pmp_request`."""
    epoch_s = _nat_pmp_header(data, _TCP_REQUEST, _NAT_PMP_MAPPING)
    if not isinstance(epoch_s, int):
        return epoch_s
    its_port, external_port, lease_s = _NAT_PMP_MAPPING.unpack_from(data, _NAT_PMP_HEADER.size)
    if its_port != port:
        return Malformed("a NAT-PMP response to another request")
    return Granted(host, external_port, lease_s, epoch_s)


def _nat_pmp_header(data: bytes, operation: int, body: struct.Struct) -> int | Answer | Malformed:
    """The epoch of a success, or what else it is."""
    if len(data) > RESPONSE_BYTES_MAX:
        return Malformed(f"a NAT-PMP response of {len(data)} bytes; {RESPONSE_BYTES_MAX} are allowed")
    if _is_other_version(data, _NAT_PMP_VERSION):
        return OtherVersion()
    if len(data) < _NAT_PMP_HEADER.size:
        return Malformed(f"a NAT-PMP response of {len(data)} bytes")
    version, its_operation, result, epoch_s = _NAT_PMP_HEADER.unpack_from(data)
    if (version, its_operation) != (_NAT_PMP_VERSION, _IS_RESPONSE | operation):
        return Malformed(f"a NAT-PMP response of version {version} to operation {its_operation}")
    if result == _UNSUPPORTED_VERSION:
        return OtherVersion()
    if result == _NAT_PMP_NETWORK_FAILURE:
        return Homeless(None)
    if result:
        return Refused(_NAT_PMP_WORDS.get(result, f"result {result}"))
    if len(data) < _NAT_PMP_HEADER.size + body.size:
        return Malformed(f"a NAT-PMP response of {len(data)} bytes")
    assert isinstance(epoch_s, int)
    return epoch_s


def _is_other_version(data: bytes, version: int) -> bool:
    """Whether a router refuses our version, in the words of its own: they begin alike, and differ in the result."""
    if len(data) < 4 or data[0] == version or not data[1] & _IS_RESPONSE:
        return False
    return _UNSUPPORTED_VERSION in (data[3], int.from_bytes(data[2:4], "big"))


def _mapped(host: str) -> bytes:
    """An IPv4 address as PCP wants it."""
    return ipaddress.IPv6Address(f"::ffff:{host}").packed
