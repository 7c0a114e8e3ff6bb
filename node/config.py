"""The node's settings: one table, read from TOML and overruled by flags, each key with its meaning and bounds.

Nothing else overrules them: no environment variables, no second file. A key that is not in the table is refused with
the nearest one that is, because a setting that is silently ignored is worse than an error.
"""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, get_type_hints

import msgspec

from .complaint import Complaint, Exit, nearest

CONFIG_NAME = "config.toml"
KEY_NAME = "identity.key"  # beside it, in the data directory
CONFIG_BYTES_MAX = 1024 * 1024
GIGABYTE = 1_000_000_000

FLAGS = "flags"  # where settings come from that are named as --flags
ADDRESS_PATTERN = "^/"
ADDRESS_EXAMPLES = {
    "listen": "/ip4/0.0.0.0/tcp/4011",
    "announce": "/ip4/203.0.113.7/tcp/4011",
    "stay_connected_to": "/ip4/203.0.113.7/tcp/4011/p2p/<peer id>",
    "relays": "/ip4/203.0.113.7/tcp/4011/p2p/<peer id>",
}

Address = Annotated[str, msgspec.Meta(min_length=1, max_length=256, pattern=ADDRESS_PATTERN)]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a node's owner decides. The descriptions are what `shoal config init` writes beside the keys."""

    listen: Annotated[
        tuple[Address, ...],
        msgspec.Meta(
            min_length=1,
            max_length=16,
            description="Addresses to listen on. Port 0 takes a free port at the first start, one for IPv4 and IPv6, "
            "and keeps it.",
        ),
    ] = ("/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0")
    announce: Annotated[
        tuple[Address, ...],
        msgspec.Meta(
            max_length=8,
            description="Addresses to put first into invites: a forwarded port, as /ip4/203.0.113.7/tcp/4011.",
        ),
    ] = ()
    stay_connected_to: Annotated[
        tuple[Address, ...],
        msgspec.Meta(
            max_length=64,
            description="Nodes to be connected to always, as /ip4/.../tcp/.../p2p/<peer id>. None is built in.",
        ),
    ] = ()
    relays: Annotated[
        tuple[Address, ...],
        msgspec.Meta(
            max_length=4,
            description="Relays through which others reach this node, as /ip4/.../tcp/.../p2p/<peer id>.",
        ),
    ] = ()
    relay: Annotated[
        Literal["members", "everybody", "nobody"],
        msgspec.Meta(
            description="For whom to pass encrypted traffic on, within the bounds below, where this node can be "
            "reached. members: for those of its own swarms; strangers get 128 KB in 2 minutes, to meet and connect "
            "directly."
        ),
    ] = "members"
    relay_reservations_max: Annotated[
        int, msgspec.Meta(ge=1, le=100_000, description="Nodes that may be reached through this one.")
    ] = 128
    relay_circuits_max: Annotated[
        int,
        msgspec.Meta(
            ge=1, le=100_000, description="Relayed connections at once. Memory: up to 2 MB for each slow one."
        ),
    ] = 128
    relay_circuit_gb_max: Annotated[
        float, msgspec.Meta(gt=0, le=1_000_000, description="GB of 10^9 bytes that one relayed connection may carry.")
    ] = 1.0
    relay_circuit_minutes_max: Annotated[
        int, msgspec.Meta(ge=1, le=100_000, description="Minutes that one relayed connection may last.")
    ] = 60
    port_mapping: Annotated[
        bool,
        msgspec.Meta(
            description="Ask the home's router for a port that leads to this node (PCP, NAT-PMP, UPnP), and give it "
            "back at the end."
        ),
    ] = True
    relay_gb_per_day: Annotated[
        float, msgspec.Meta(gt=0, le=1_000_000, description="GB of 10^9 bytes that all relayed connections may carry.")
    ] = 50.0
    relay_mbit_max: Annotated[
        float,
        msgspec.Meta(
            ge=0, le=1_000_000, description="Mbit/s that all relayed connections may take together. 0: what is there."
        ),
    ] = 0.0
    mdns: Annotated[
        bool, msgspec.Meta(description="Find nodes on the local network, and be found there, without any address.")
    ] = True
    dht_per_range: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=20,
            description="Peers of one IPv4 /24 or IPv6 /48 per bucket of the DHT's table, 1 to 20; more lets one owner "
            "of addresses surround this node. Private addresses are not counted.",
        ),
    ] = 2
    connections_max: Annotated[
        int,
        msgspec.Meta(
            ge=2,
            le=100_000,
            description="Peers connected at once. Memory: about 0.3 MB each. Beyond three quarters those that nobody "
            "uses are closed.",
        ),
    ] = 256
    bulk_connections_max: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            le=1024,
            description="Connections for payloads and states alone, at once, up to four with a peer each way. Memory: "
            "2 MB and a thread each. 0: none; they go by streams beside everything else, at less than half the speed.",
        ),
    ] = 64
    upload_mbit_max: Annotated[
        float,
        msgspec.Meta(
            ge=0,
            le=1_000_000,
            description="Mbit/s of payloads and states that this node sends to others; its swarms share it alike. "
            "0: what is there.",
        ),
    ] = 0.0
    disk_gb_max: Annotated[
        float, msgspec.Meta(gt=0, le=1_000_000, description="Room for blobs (payloads, states), in GB of 10^9 bytes.")
    ] = 20.0
    threads: Annotated[
        int,
        msgspec.Meta(ge=0, le=1024, description="Threads to train with. 0: half of the cores; the rest stays yours."),
    ] = 0
    nice: Annotated[
        int, msgspec.Meta(ge=0, le=19, description="How far to step back for other programs: 0 not at all, 19 most.")
    ] = 5
    device: Annotated[
        Literal["auto", "cpu", "cuda"], msgspec.Meta(description="Where to train. auto: the GPU if torch sees one.")
    ] = "auto"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], msgspec.Meta(description="The least important line to log.")
    ] = "info"
    json_logs: Annotated[bool, msgspec.Meta(description="Log one JSON object a line, for programs.")] = False


KEYS = Config.__struct_fields__


def description(key: str) -> str:
    """What `key` means, in one sentence or two."""
    for meta in get_type_hints(Config, include_extras=True)[key].__metadata__:
        if isinstance(meta, msgspec.Meta) and meta.description:
            return meta.description
    raise KeyError(key)


def parse_config(text: str, where: str) -> Config:
    """The settings in a TOML text.

    Raises:
        Complaint: naming `where`, the key, what was expected and, for an unknown key, the nearest valid one.
    """
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError; so is a number of 5,000 digits
        raise Complaint(f"{where} is not TOML: {error}", Exit.CONFIG) from error
    return config_of(table, where)


def config_of(table: Mapping[str, object], where: str) -> Config:
    """The settings that a parsed table or the flags hold, else defaults. Raises Complaint as `parse_config`."""
    for key in table:
        if key not in KEYS:
            raise Complaint(
                f"{where}: unknown key '{key}': {nearest(key, KEYS)} (docs/operating.md lists all)", Exit.CONFIG
            )
    try:
        return msgspec.convert(dict(table), Config)
    except msgspec.ValidationError as error:
        reason = readable(error)
        if where == FLAGS:
            place, _, expected = reason.partition(": ")
            flag = "--" + place.partition("[")[0].replace("_", "-")
            raise Complaint(f"{flag}: {expected}", Exit.CONFIG) from error
        raise Complaint(f"{where}: {reason}", Exit.CONFIG) from error


def readable(error: msgspec.ValidationError) -> str:
    """msgspec's "Expected `int`, got `str` - at `$.threads`" as "threads: expected int, got str"."""
    message, _, place = str(error).replace("`", "").partition(" - at ")
    place = place.removeprefix("$.")
    example = ADDRESS_EXAMPLES.get(place.partition("[")[0])
    if example is not None and message == f"Expected str matching regex '{ADDRESS_PATTERN}'":
        message = f"expected an address such as {example}"
    message = message[:1].lower() + message[1:]
    return f"{place}: {message}" if place else message


def load_config(path: Path, flags: Mapping[str, object], *, is_required: bool) -> Config:
    """The settings of `path`, overruled by `flags`; the defaults where it is missing and not required.

    Raises:
        Complaint: the file cannot be read or is not right.
    """
    try:
        with path.open("rb") as file:
            data = file.read(CONFIG_BYTES_MAX + 1)
    except FileNotFoundError as error:
        if is_required:
            raise Complaint(f"there is no {path}: `shoal config init` makes one", Exit.CONFIG) from error
        return config_of(flags, FLAGS)
    except NotADirectoryError as error:
        problem = f"cannot read {path}" if is_required else "--data-dir must be a directory"
        raise Complaint(f"{problem}: {path.parent} is not one", Exit.CONFIG) from error
    except OSError as error:
        raise Complaint(f"cannot read {path}: {error.strerror}", Exit.CONFIG) from error
    if len(data) > CONFIG_BYTES_MAX:
        raise Complaint(f"{path} is larger than {CONFIG_BYTES_MAX} bytes: that is no configuration", Exit.CONFIG)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise Complaint(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}", Exit.CONFIG) from error
    config = parse_config(text, str(path))
    return config_of({**msgspec.structs.asdict(config), **flags}, FLAGS) if flags else config


def render_config(config: Config, *, is_commented: bool = False) -> str:
    """TOML that `parse_config` reads back as `config`; `is_commented` puts each key behind a #."""
    lines: list[str] = []
    for key, value in msgspec.structs.asdict(config).items():
        # JSON's numbers, booleans, strings and arrays are TOML as well, but for its surrogate escapes and a raw DEL.
        line = f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")
        lines += [f"# {description(key)}", f"#{line}" if is_commented else line, ""]
    return "\n".join(lines)
