"""What is said with an Internet Gateway Device of UPnP: searching it, its description, and three of its actions.

(UPnP Device Architecture 1.1; WANIPConnection:1 and :2, WANPPPConnection:1.) Text in, values out; docs/decisions.md
says why no library does it.

What a malicious device in the local network may send: any text, of at most TEXT_BYTES_MAX. What it achieves: we ask
itself, at paths of its own, and nobody else: whoever answers a search names a place at its own address, and so does
its description. Answers are searched for a few short values by expressions that take time linear in the text; there is
no XML parser to keep busy. What of it goes back on the wire is of a form that is known here.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit
from xml.sax.saxutils import escape

from .port_mapping import Answer, Granted, Homeless, PermanentOnly, Refused, Taken
from .wire import Malformed

SEARCH_GROUP: Final = ("239.255.255.250", 1900)
SEARCH_BYTES_MAX: Final = 2048  # of an answer to a search
TEXT_BYTES_MAX: Final = 64 * 1024  # of a description or an action's answer; real ones have 2 to 10 KB
URL_CHARS_MAX: Final = 256
CONTROLS_MAX: Final = 4  # a router has one for each way it may be connected: cable, PPP
NAME: Final = "Shoal"  # of the mapping, in the router's pages
SEARCHED: Final = (
    "urn:schemas-upnp-org:device:InternetGatewayDevice:1",
    "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
)
_LOCATION: Final = re.compile(r"^location:[ \t]*(\S+)[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_PATH: Final = re.compile(r"/[!-;=?-~]*")  # ASCII that can be seen, but for < and >
_URL_BASE: Final = re.compile(r"<URLBase>([^<]*)</URLBase>", re.IGNORECASE)
_SERVICE: Final = re.compile(r"<service>", re.IGNORECASE)
_TYPE: Final = re.compile(
    r"<serviceType>\s*(urn:schemas-upnp-org:service:WAN(?:IP|PPP)Connection:[12])\s*</serviceType>", re.IGNORECASE
)
_CONTROL: Final = re.compile(r"<controlURL>([^<]*)</controlURL>", re.IGNORECASE)
_ERROR: Final = re.compile(r"<(?:\w{1,16}:)?errorCode[^<>]*>\s*([0-9]{1,5})\s*<")
_HOST: Final = re.compile(r"<NewExternalIPAddress[^<>]*>\s*([0-9.]{0,15})\s*<")
_CLIENT: Final = re.compile(r"<NewInternalClient[^<>]*>\s*([0-9.]{7,15})\s*<")
_TAKEN: Final = frozenset({718, 729})  # ConflictInMappingEntry, ConflictWithOtherMechanisms
_PERMANENT_ONLY: Final = 725
_WORDS: Final = {
    401: "unknown action",
    402: "unsound arguments",
    501: "action failed",
    606: "not authorized",
    724: "external and internal port must be the same",
    728: "no port is left",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Something to ask for at a device."""

    host: str
    port: int
    path: str


@dataclass(frozen=True, slots=True)
class Control:
    """Where the actions of one of a router's connections are asked for."""

    place: Place
    service: str


def search(target: str) -> bytes:
    """The datagram that looks for devices of a kind."""
    host, port = SEARCH_GROUP
    lines = ("M-SEARCH * HTTP/1.1", f"HOST: {host}:{port}", f"ST: {target}", 'MAN: "ssdp:discover"', "MX: 1", "", "")
    return "\r\n".join(lines).encode()


def read_found(data: bytes, sender: str, gateway: str | None) -> Place | Malformed:
    """Where the description of a device is that answers a search: at the address it answers from, in our network."""
    if len(data) > SEARCH_BYTES_MAX:
        return Malformed(f"an answer to a search of {len(data)} bytes; {SEARCH_BYTES_MAX} are allowed")
    if sender != gateway and not _is_in_lan(sender):
        return Malformed(f"an answer to a search from {sender}, outside of the local network")
    match = _LOCATION.search(data.decode("ascii", errors="replace"))
    if match is None:
        return Malformed("an answer to a search without a location")
    return _place(match[1], sender)


def read_description(data: bytes, place: Place) -> list[Control] | Malformed:
    """The router's connections, of the description that lies at `place`."""
    if len(data) > TEXT_BYTES_MAX:
        return Malformed(f"a description of {len(data)} bytes; {TEXT_BYTES_MAX} are allowed")
    text = data.decode(errors="replace")
    written = _URL_BASE.search(text)
    base = f"http://{place.host}:{place.port}{place.path}" if written is None else written[1].strip()
    controls: list[Control] = []
    problem = Malformed("a description without a connection to the internet")
    for part in _SERVICE.split(text)[1:]:
        service, url = _TYPE.search(part), _CONTROL.search(part)
        if service is None or url is None or len(controls) == CONTROLS_MAX:
            continue
        control = _place(url[1].strip(), place.host, base)
        if isinstance(control, Malformed):
            problem = control
        else:
            controls.append(Control(control, service[1]))
    return controls or problem


def action(control: Control, name: str, arguments: dict[str, str]) -> tuple[list[tuple[str, str]], bytes]:
    """Headers and body that ask for an action."""
    inner = "".join(f"<{key}>{escape(value)}</{key}>" for key, value in arguments.items())
    body = (
        '<?xml version="1.0"?>\r\n<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" '
        's:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>'
        f'<u:{name} xmlns:u="{control.service}">{inner}</u:{name}></s:Body></s:Envelope>\r\n'
    )
    headers = [("Content-Type", 'text/xml; charset="utf-8"'), ("SOAPAction", f'"{control.service}#{name}"')]
    return headers, body.encode()


def entry_of(external_port: int) -> dict[str, str]:
    """The arguments that name a mapping: of GetSpecificPortMappingEntry and DeletePortMapping."""
    return {"NewRemoteHost": "", "NewExternalPort": str(external_port), "NewProtocol": "TCP"}


def added_entry(client: str, port: int, external_port: int, lease_s: int) -> dict[str, str]:
    """Arguments of AddPortMapping, for a port of `client`."""
    return {
        **entry_of(external_port),
        "NewInternalPort": str(port),
        "NewInternalClient": client,
        "NewEnabled": "1",
        "NewPortMappingDescription": NAME,
        "NewLeaseDuration": str(lease_s),
    }


def is_others(status: int, data: bytes, client: str) -> bool:
    """Whether GetSpecificPortMappingEntry tells of a computer other than `client`. Some routers would overwrite it."""
    match = _CLIENT.search(data[:TEXT_BYTES_MAX].decode(errors="replace")) if status == 200 else None
    return match is not None and match[1] != client


def read_address(status: int, data: bytes) -> str | None:
    """The router's address as GetExternalIPAddress tells it; None if it has none, or does not say."""
    match = _HOST.search(data[:TEXT_BYTES_MAX].decode(errors="replace")) if status == 200 else None
    if match is None or match[1] in ("", "0.0.0.0"):
        return None
    return match[1]


def read_added(status: int, data: bytes, host: str | None, external_port: int, lease_s: int) -> Answer:
    """What AddPortMapping has brought at the router whose address is `host`. It does not tell the lease it granted."""
    if status == 200:
        return Homeless(None) if host is None else Granted(host, external_port, lease_s or None)
    match = _ERROR.search(data[:TEXT_BYTES_MAX].decode(errors="replace"))
    code = 0 if match is None else int(match[1])
    if code in _TAKEN:
        return Taken()
    if code == _PERMANENT_ONLY:
        return PermanentOnly()
    if host is None:
        return Homeless(None)  # miniupnpd says "action failed" where it has no public address
    return Refused(_WORDS.get(code, f"error {code}" if code else f"HTTP status {status}"))


def _place(url: str, host: str, base: str = "") -> Place | Malformed:
    """What `url` names, if it is at `host`."""
    if max(len(url), len(base)) > URL_CHARS_MAX:
        return Malformed(f"a URL of more than {URL_CHARS_MAX} characters")
    try:
        parts: SplitResult = urlsplit(urljoin(base, url))
        port = parts.port or 80
    except ValueError as error:
        return Malformed(f"{url!r} is no URL: {error}")
    if parts.scheme != "http" or parts.hostname != host or "@" in parts.netloc:
        return Malformed(f"{url!r} leads elsewhere than to {host}, where it comes from")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if _PATH.fullmatch(path) is None:
        return Malformed(f"{url!r} has characters that no URL has")
    return Place(host, port, path)


def _is_in_lan(host: str) -> bool:
    try:
        ip = IPv4Address(host)
    except ValueError:
        return False
    return (ip.is_private or ip.is_link_local) and not ip.is_loopback and not ip.is_unspecified
