"""A router of the laboratory that gives ports to its hosts: miniupnpd, as it runs in many homes.

It adds rules of its own beside those of `routers`. Like everything in a namespace it ends with the laboratory, however
that ends.
"""

import shutil
import subprocess
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from .complaint import Complaint
from .laboratory import Home
from .processes import own_group

TOOL, PACKAGE = "miniupnpd", "miniupnpd-nftables"
PLACES: Final = "/usr/sbin:/sbin:/usr/local/sbin"  # where it is, also when an ordinary user's PATH has none of them
LEASE_S_MIN: Final = 10  # what it grants at least
STARTED_TIMEOUT_S: Final = 10.0
READY: Final = b"Listening for NAT-PMP/PCP traffic", b"HTTP listening on port"
TABLE: Final = """
table inet gateway
delete table inet gateway
table inet gateway {
  chain forward { }
  chain inbound { type nat hook prerouting priority dstnat; }
  chain outbound { type nat hook postrouting priority srcnat; }
}
"""


def obstacle() -> str:
    """Why no router can give ports on this machine, for a person; empty if it can."""
    if _tool() is None:
        return f"the command `{TOOL}` is not installed here (Debian: {PACKAGE})"
    return ""


@asynccontextmanager
async def serve_mappings(home: Home, *, upnp: bool = True, pcp: bool = True) -> AsyncGenerator[None]:
    """Let the home's router give ports to whoever asks, by UPnP, and by PCP and NAT-PMP (it knows both or none).

    When it ends it has forgotten them all. Raises Complaint.
    """
    tool = _tool()
    if tool is None:
        raise Complaint(obstacle())
    await home.router.run("nft", "-f", "-", given=TABLE)
    daemon: trio.Process | None = None
    try:
        with tempfile.TemporaryDirectory(prefix="shoal-gateway-") as folder:  # it reads it once, so nothing is left
            config = Path(folder) / "miniupnpd.conf"
            config.write_text(_config(upnp=upnp, pcp=pcp))
            command = [*home.router.prefix, tool, "-d", "-4", "-f", str(config), "-P", str(Path(folder) / "pid")]
            daemon = await trio.lowlevel.open_process(command, stderr=subprocess.PIPE, **own_group())
            assert daemon.stderr is not None
            await _until_ready(daemon.stderr, READY[0] if pcp else READY[1])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_discard, daemon.stderr)
            yield
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            if daemon is not None:
                await _end(daemon)
            await home.router.run("nft", "-f", "-", given=TABLE)


async def _end(daemon: trio.Process) -> None:
    daemon.kill()
    await daemon.wait()
    assert daemon.stderr is not None
    await daemon.stderr.aclose()


async def _until_ready(log: trio.abc.ReceiveStream, word: bytes) -> None:
    said = b""
    with trio.move_on_after(STARTED_TIMEOUT_S):
        while data := await log.receive_some():
            said += data
            if word in said:
                return
    raise Complaint(f"{TOOL} does not start: {said.decode(errors='replace')}")


async def _discard(log: trio.abc.ReceiveStream) -> None:
    while await log.receive_some():
        pass


def _tool() -> str | None:
    return shutil.which(TOOL) or shutil.which(TOOL, path=PLACES)


def _config(*, upnp: bool, pcp: bool) -> str:
    settings = {
        "ext_ifname": "wan",
        "listening_ip": "lan",
        "enable_upnp": _yes(upnp),
        "enable_natpmp": _yes(pcp),
        "secure_mode": "yes",
        "min_lifetime": LEASE_S_MIN,
        "max_lifetime": 86_400,
        "uuid": "00000000-0000-0000-0000-000000000001",
        "upnp_table_name": "gateway",
        "upnp_nat_table_name": "gateway",
        "upnp_forward_chain": "forward",
        "upnp_nat_chain": "inbound",
        "upnp_nat_postrouting_chain": "outbound",
    }
    lines = [f"{key}={value}" for key, value in settings.items()]
    return "\n".join([*lines, "allow 1024-65535 0.0.0.0/0 1024-65535", "deny 0-65535 0.0.0.0/0 0-65535", ""])


def _yes(wish: bool) -> str:
    return "yes" if wish else "no"
