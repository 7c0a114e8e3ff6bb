"""A running node's parts, and what it says about itself."""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

import shoal
from shoal.dht.service import DhtService
from shoal.training.service import SwarmStatus
from shoal.transport.bulk import BlobService
from shoal.transport.host import Host
from shoal.transport.identity import Identity
from shoal.transport.port import Connection, Missing, Transport

from .config import Config
from .stall import StallMeter
from .swarms import BuildOn, Joined, Swarms
from .watch import EventRing


@dataclass(frozen=True, slots=True)
class Setup:
    """What a node is made from."""

    data_dir: Path
    config: Config
    stalls: StallMeter  # an instrument of the running loop
    stopping: trio.Event  # set it and the node ends
    build: BuildOn | None = None  # what makes its swarms' methods, if not the usual does
    show: Callable[[Host], None] | None = None  # is shown the network before anything is served there


@dataclass(frozen=True, slots=True)
class Node:
    """Made by app.run_node; valid until that ends."""

    setup: Setup
    identity: Identity
    transport: Transport
    swarms: Swarms
    blobs: BlobService
    dht: DhtService
    events: EventRing
    started_at: float = field(default_factory=time.monotonic)

    def status(self) -> dict[str, Any]:
        """For `shoal status`: everything at a glance."""
        traffic = self.transport.traffic()
        return {
            "version": shoal.__version__,
            "peer_id": self.identity.peer_id,
            "data_dir": str(self.setup.data_dir),
            "addresses": list(self.transport.addresses()),
            "uptime_s": round(time.monotonic() - self.started_at, 1),
            "connections": len(self.transport.connections()),
            "dht_peers": len(self.dht.contacts()),
            "bytes_sent": traffic.bytes_sent,
            "bytes_received": traffic.bytes_received,
            "rss_mb": rss_mb(),
            "stall_longest_s": round(self.setup.stalls.longest_s, 4),
            "stall_recent_s": round(self.setup.stalls.recent_s(), 4),
            "swarms": [self.describe(joined) for joined in self.swarms.all()],
        }

    def describe(self, joined: Joined) -> dict[str, Any]:
        """One swarm, for `shoal swarm list`."""
        return {
            "id": joined.id,
            "name": joined.spec.name,
            "method": joined.spec.method,
            "model": joined.spec.model,
            "data": joined.spec.data,
            "role": joined.membership.role,
            "is_paused": joined.membership.is_paused,
            "problem": joined.problem or None,
            "waits_for": joined.waits_for or None,
            **(progress(joined.service.status(), joined.figures) if joined.service is not None else {}),
        }

    def peers(self) -> list[dict[str, Any]]:
        """For `shoal peers`: who is connected."""
        return [connected_peer(each) for each in self.transport.connections()]

    def missing(self) -> list[dict[str, Any]]:
        """For `shoal peers`, too: who should be, and why they are not."""
        return [missing_peer(each) for each in self.transport.missing()]


def connected_peer(connection: Connection) -> dict[str, Any]:
    return {
        "peer_id": connection.peer,
        "address": connection.address,
        "is_relayed": connection.is_relayed,
        "is_outbound": connection.is_outbound,
        "rtt_s": connection.rtt_s,
        "bytes_sent": connection.bytes_sent,
        "bytes_received": connection.bytes_received,
        "bulk": connection.bulk,
        "bulk_bytes_per_s": connection.bulk_bytes_per_s,
        "reason": connection.note,
    }


def missing_peer(missing: Missing) -> dict[str, Any]:
    return {
        "peer_id": missing.peer,
        "addresses": list(missing.addresses),
        "failures": [{"address": each.address, "reason": each.reason} for each in missing.failures],
    }


def progress(status: SwarmStatus, figures: Mapping[str, float]) -> dict[str, Any]:
    """How a swarm's training goes."""
    return {
        "round": status.round,
        "phase": status.phase.name.lower(),
        "standing": status.standing.name.lower(),
        "notice": status.notice,
        "state_digest": status.state_digest,
        "contributors": list(status.contributors),
        "figures": dict(figures),
        "members": [
            {
                "peer_id": member.peer,
                "standing": member.standing.name.lower(),
                "is_connected": member.is_connected,
                "round": member.round,
            }
            for member in status.members
        ],
    }


def rss_mb() -> float | None:
    """Memory of this process in MB of 10^6 bytes; None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return peak_rss_mb()
    import resource

    return round(pages * resource.getpagesize() / 1e6, 1)


def peak_rss_mb() -> float | None:
    """The most this process ever had, where the system says no more (macOS); None on Windows."""
    if sys.platform == "win32":
        return None
    import resource

    scale = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6, 1)
