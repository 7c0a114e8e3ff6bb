"""What can be checked on this machine alone, whether its node runs or not: directory, key, disk, port, network."""

import shutil
import socket
from pathlib import Path
from typing import Final

from shoal.transport.cards_service import Cards
from shoal.transport.identity import Identity, IdentityError

from .complaint import Complaint, Exit
from .config import KEY_NAME, Config
from .diagnosis import Cause, Check, Finding, State
from .directory import take_directory
from .listening import PORT_NAME, answerable, bind_problem, check_ports, is_free, listen_addresses, parts, read_port
from .port_holder import holder_of

LOOPBACK6: Final = (socket.AF_INET6, "::1", 0)
MB: Final = 1_000_000
FREE_BYTES_MIN: Final = 100 * MB  # less, and a node cannot write what it must
FREE_BYTES_ENOUGH: Final = 2_000 * MB  # for a few states of a small model


def check_stopped(data_dir: Path, config: Config) -> list[Finding]:
    """All that can be said of a node that does not run. Makes nothing, writes nothing."""
    return [
        check_directory(data_dir),
        check_key(data_dir / KEY_NAME),
        check_disk(data_dir),
        check_port(data_dir, config),
        check_network(),
        Finding(Check.NODE, State.FAILURE, f"none runs in {data_dir}", Cause.NO_NODE),
    ]


def check_directory(data_dir: Path) -> Finding:
    if not data_dir.exists():
        return Finding(Check.DIRECTORY, State.OK, f"{data_dir} is not there yet: the first `shoal node` makes it")
    try:
        with take_directory(data_dir):
            return Finding(Check.DIRECTORY, State.OK, str(data_dir))
    except Complaint as complaint:
        return Finding(Check.DIRECTORY, State.FAILURE, str(complaint), Cause.DIRECTORY)


def check_key(path: Path) -> Finding:
    if not path.exists():
        return Finding(Check.KEY, State.OK, "there is none yet: the first `shoal node` makes one")
    try:
        return Finding(Check.KEY, State.OK, f"{path.name} is that of {Identity.load_or_create(path).peer_id}")
    except IdentityError as error:
        return Finding(Check.KEY, State.FAILURE, str(error), Cause.KEY)


def check_disk(data_dir: Path) -> Finding:
    place = next((each for each in (data_dir, *data_dir.parents) if each.exists()), Path("/"))
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Finding(Check.DISK, State.SKIPPED, f"the system does not tell: {error.strerror}")
    words = f"{free / 1e9:.1f} GB are free"
    if free < FREE_BYTES_MIN:
        return Finding(Check.DISK, State.FAILURE, words, Cause.DISK)
    if free < FREE_BYTES_ENOUGH:
        return Finding(Check.DISK, State.WARNING, words, Cause.DISK)
    return Finding(Check.DISK, State.OK, words)


def check_port(data_dir: Path, config: Config) -> Finding:
    """Whether a node could listen where it is to, and who has the port if it cannot."""
    last = read_port(data_dir / PORT_NAME)
    try:
        check_ports(listen_addresses(config.listen, data_dir))
        places = [parts(text) for text in answerable(config.listen, has_ip6=not bind_problem(*LOOPBACK6))]
    except Complaint as complaint:
        if complaint.code is not Exit.IN_USE:
            return Finding(Check.PORT, State.FAILURE, str(complaint), Cause.PORT)
        return _taken(config)
    if last and any(not port and not is_free(family, host, last) for family, host, port in places):
        words = f"port {last} of the last start is taken{by_whom(last)}: another would be used, which nobody knows"
        return Finding(Check.PORT, State.WARNING, words, Cause.PORT)
    fixed = sorted({port for _, _, port in places if port})
    named = ", ".join(map(str, fixed)) if fixed else f"{last}, as at the last start" if last else "any free one"
    return Finding(Check.PORT, State.OK, f"the port is free: {named}")


def _taken(config: Config) -> Finding:
    for family, host, port in map(parts, config.listen):
        if port and not is_free(family, host, port):
            return Finding(Check.PORT, State.FAILURE, f"port {port} is taken{by_whom(port)}", Cause.PORT)
    return Finding(Check.PORT, State.WARNING, "a port was taken and is free again")


def by_whom(port: int) -> str:
    holder = holder_of(port)
    return f" by {holder}" if holder else " by another program"


def check_network(*, is_anybody_there: bool = False) -> Finding:
    """Whether anything leads out of this machine."""
    families = Cards().families()
    if families:
        names = " and ".join({"ip4": "IPv4", "ip6": "IPv6"}[each] for each in sorted(families))
        return Finding(Check.NETWORK, State.OK, f"{names} lead{'s' if len(families) == 1 else ''} out of this machine")
    words = "no address of this machine leads anywhere"
    if is_anybody_there:
        return Finding(Check.NETWORK, State.SKIPPED, f"{words}, yet peers are near enough")
    return Finding(Check.NETWORK, State.FAILURE, words, Cause.NO_NETWORK)
