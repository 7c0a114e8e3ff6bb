"""The daemon: opens a data directory and runs everything a node consists of, until it is told to stop.

Order matters: the lock first, so that nothing else is touched in another node's directory; the local API last, so that
whoever can connect finds a node that works.
"""

import contextlib
import gc
import os
import secrets
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

import trio

from shoal.dht.service import open_dht
from shoal.transport.blob_store import BlobStore
from shoal.transport.bulk import BlobService
from shoal.transport.host import Host, HostError, open_host
from shoal.transport.identity import Identity, IdentityError, public_key_of
from shoal.transport.limits import Limits
from shoal.transport.port import Address, PeerId, Transport
from shoal.transport.relay import RelayLimits
from shoal.transport.upload_service import Uploads

from .clock_service import serve_clock, watch_clock
from .complaint import Complaint, Exit
from .config import GIGABYTE, KEY_NAME, Config
from .directory import exit_of, take_directory
from .discovery import Discovery, dht_settings
from .fellows import Fellows
from .listening import check_ports, listen_addresses, remember_port
from .local_api import LocalApi
from .local_methods import LocalMethods
from .logs import Log
from .node import Node, Setup
from .proving import holders_of, members_of
from .relay_seeking import RelaySeeker, is_private
from .swarms import Hardware, Swarms, build_method, threads_of
from .watch import EventRing

BLOBS_NAME = "blobs"
SWARMS_NAME = "swarms"
STOP_S = 1.8  # after a signal; a training step that has not come back by then is cut off, as kill -9 would
FILES = 256  # that a node has open beside its connections: its swarms' stores, blobs, the local API
CONNECTION_FILES = 2  # one open, and one being dialed or closed
YOUNG_MAX = 10_000  # objects before the garbage collector looks at them; Python's own is 700
MIDDLE_COLLECTIONS = 10  # collections of the young ones for each of the middle generation
FULL_COLLECTIONS = 100  # and of these for each of all; Python's own is 10
MEGABIT_BYTES = 125_000
HEARTBEAT_S = 0.5  # wakes the loop, so that a late wake-up is noticed even when nothing else happens

log = Log("node")


async def run_node(setup: Setup, *, task_status: trio.TaskStatus[Node] = trio.TASK_STATUS_IGNORED) -> None:
    """Run a node until it is cancelled. It sets `setup.stopping` when its local API is asked to stop it.

    Raises:
        Complaint: the directory, its key, a port or the disk cannot be used.
    """
    data_dir, config = setup.data_dir, setup.config
    with take_directory(data_dir):
        identity = load_identity(data_dir / KEY_NAME)
        step_back(config.nice)
        allow_files(config.connections_max, config.bulk_connections_max)
        store = await open_store(data_dir / BLOBS_NAME, config)
        listen = listen_addresses(config.listen, data_dir)
        check_ports(listen)
        try:
            limits = Limits(connections_max=config.connections_max, bulk_connections_max=config.bulk_connections_max)
            relay = relay_limits(config)
            async with open_host(identity, listen, limits, relay=relay, relays=config.relays) as host:
                remember_port(data_dir, config.listen, host.addresses())
                host.announce(config.announce)
                await run_on(host, store, identity, setup, task_status)
        except* HostError as group:
            raise Complaint(str(group.exceptions[0]), Exit.IN_USE) from group


async def run_on(
    host: Host, store: BlobStore, identity: Identity, setup: Setup, task_status: trio.TaskStatus[Node]
) -> None:
    """Everything above the network."""
    if setup.show is not None:
        setup.show(host)
    transport: Transport = host
    events = EventRing()

    def publish(swarm: str, event: Mapping[str, object]) -> None:
        events.publish(event, swarm)

    settings = dht_settings(setup.config, setup.data_dir, transport)
    async with (
        open_dht(transport, identity, settings, seed=secrets.randbits(64)) as dht,
        trio.open_nursery() as nursery,
    ):
        uploads = Uploads(setup.config.upload_mbit_max * MEGABIT_BYTES, store.owner_of)
        blobs = BlobService(transport, store, uploads=uploads, find_holders=partial(holders_of, transport, dht))
        await nursery.start(blobs.run)
        hardware = Hardware(setup.config.device, threads_of(setup.config.threads))
        build = partial(setup.build or build_method, hardware)
        find = partial(members_of, transport, dht)
        swarms = Swarms(setup.data_dir / SWARMS_NAME, transport, blobs, identity, build, publish, find)
        fellows = Fellows(swarms)
        host.relaying.know(fellows.swarms_of)
        node = Node(setup, identity, transport, swarms, blobs, dht, events)
        keep_connected(node)
        serve_clock(transport)
        nursery.start_soon(watch_clock, transport)
        await nursery.start(swarms.run)
        await nursery.start(Discovery(setup.config, transport, dht, swarms, store).run)
        if setup.config.port_mapping:
            nursery.start_soon(host.map_port)
        seeker = RelaySeeker(host, dht, swarms.keeping, fellows, partial(is_private, host))
        await nursery.start(seeker.run)
        where = await nursery.start(LocalApi(setup.data_dir, LocalMethods(node).table()).run)
        say_ready(node, where)
        task_status.started(node)
        await beat()


def settle() -> None:
    """For a process that is all a node's, once all is loaded: else the garbage collector looks through half a million
    objects that stay, again and again, for 0.15 s each time, in which nobody is answered. Later, too, it seldom looks
    at the young ones, of which a busy node uses thousands, and hardly ever at all (1 ms for each 1,000).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_MAX, MIDDLE_COLLECTIONS, FULL_COLLECTIONS)


async def beat() -> None:
    while True:  # noqa: ASYNC110  (the waking is the purpose)
        await trio.sleep(HEARTBEAT_S)


def say_ready(node: Node, where: str) -> None:
    log.info(
        "ready",
        peer_id=node.identity.peer_id,
        addresses=list(node.transport.addresses()),
        data_dir=str(node.setup.data_dir),
        api=where,
        swarms=len(node.swarms.all()),
    )


async def run_after_start(
    nursery: trio.Nursery, run: Callable[..., Awaitable[None]], first: Callable[[], object] | None
) -> None:
    """Start `run` in `nursery`, then call `first` in a worker thread."""
    await nursery.start(run)
    if first is not None:
        await trio.to_thread.run_sync(first, abandon_on_cancel=True)


def load_identity(path: Path) -> Identity:
    """The node's key. Raises Complaint."""
    try:
        return Identity.load_or_create(path)
    except IdentityError as error:
        raise Complaint(str(error), exit_of(error.__cause__)) from error


async def open_store(directory: Path, config: Config) -> BlobStore:
    """The blobs on disk. Raises Complaint."""
    try:
        # In a worker: after a reboot every blob is hashed again.
        return await trio.to_thread.run_sync(BlobStore, directory, int(config.disk_gb_max * GIGABYTE))
    except OSError as error:
        raise Complaint(f"cannot use {directory} for blobs: {error.strerror}", Exit.DISK) from error


def relay_limits(config: Config) -> RelayLimits | None:
    """What the owner lets the node pass on for others."""
    if config.relay == "nobody":
        return None
    return RelayLimits(
        reservations_max=config.relay_reservations_max,
        circuits_max=config.relay_circuits_max,
        circuit_bytes_max=int(config.relay_circuit_gb_max * GIGABYTE),
        circuit_s_max=config.relay_circuit_minutes_max * 60.0,
        day_bytes_max=int(config.relay_gb_per_day * GIGABYTE),
        mbit_max=config.relay_mbit_max,
        serves_strangers=config.relay == "everybody",
    )


def step_back(nice: int) -> None:
    """Let other programs go first, where the system knows how; never a step forward, which only root may take."""
    if hasattr(os, "nice"):
        os.nice(max(0, nice - os.nice(0)))
    elif nice:
        log.warning("nice has no effect on this system", nice=nice)


def allow_files(connections: int, bulk_connections: int) -> None:
    """Have the system let this process hold so many connections open, with its files: macOS allows 256 in all."""
    if sys.platform == "win32":
        return
    import resource

    wanted = FILES + CONNECTION_FILES * connections + bulk_connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning("the system allows few open files: raise its limit, or lower connections_max", most=hard)


def keep_connected(node: Node) -> None:
    """Dial the nodes that the owner wants to be connected to always. Raises Complaint."""
    for text in node.setup.config.stay_connected_to:
        _, separator, peer = text.rpartition("/p2p/")
        if not separator or public_key_of(PeerId(peer)) is None:
            raise Complaint(f"stay_connected_to: {text} does not end in /p2p/<peer id>", Exit.CONFIG)
        node.transport.keep(PeerId(peer), (Address(text),))


async def stop_on_signals(stopping: trio.Event) -> None:
    """Set `stopping` at the first SIGINT or SIGTERM."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for number in signals:
            log.info("stopping", signal=signal.Signals(number).name)
            stopping.set()


def end_process_after(seconds: float) -> None:
    """A last resort: a worker thread in a long computation cannot be interrupted. What is on disk is whole always."""

    def end() -> None:
        log.warning("cut off: a worker did not come back in time", seconds=seconds)
        os._exit(Exit.OK)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


async def stop_with_stdin(stopping: trio.Event) -> None:
    """Set `stopping` when whoever holds the other end of standard input is gone."""

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass

    # Not sys.stdin: its lock, held by this thread, would abort the interpreter at exit.
    await trio.to_thread.run_sync(wait, abandon_on_cancel=True)
    stopping.set()
