"""What tells a node's process that it attacks, and how.

Only `shoal testnet --adversaries` has nodes that attack. What makes a node one of them is a file in its data directory,
and another program than `shoal` to be started by (cli_adversary.py). It goes by that only in a swarm that a testnet has
founded, whose founder's key anybody can work out, and on loopback: so nobody attacks by accident, nor anybody else.
"""

from pathlib import Path
from typing import Annotated, Final

import msgspec
from blake3 import blake3

from shoal.training.spec import Spec
from shoal.transport.identity import Identity

from .attacking import KINDS
from .complaint import Complaint, Exit

ROLE_NAME: Final = "adversary.json"


class Role(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One adversary's."""

    kind: str
    seed: Annotated[int, msgspec.Meta(ge=0)]  # of the testnet
    colluding: tuple[str, ...]  # peer ids of all adversaries, itself among them
    shunned: tuple[str, ...]  # of the honest members those whom it gives nothing, if it chooses among them


def identity_of(seed: int, index: int) -> Identity:
    """The key of node `index`. For testnets alone: who knows the seed has the key."""
    return Identity.from_seed(blake3(f"shoal/testnet/1/{seed}/{index}".encode()).digest())


def nonce_of(seed: int) -> bytes:
    """What tells a testnet's swarm from others of equal settings."""
    return blake3(f"shoal/testnet/1/{seed}/nonce".encode()).digest(16)


def is_testnets(spec: Spec, seed: int) -> bool:
    """Whether a testnet with this seed founded the swarm: no person's node has that key."""
    return (spec.creator, spec.nonce) == (identity_of(seed, 0).peer_id, nonce_of(seed))


def is_loopback(address: str) -> bool:
    """Whether it leads nowhere but to this machine."""
    return address.startswith(("/ip4/127.", "/ip6/::1/"))


def read_role(data_dir: Path) -> Role:
    """Raises Complaint."""
    path = data_dir / ROLE_NAME
    try:
        role = msgspec.json.decode(path.read_bytes(), type=Role)
    except (OSError, msgspec.DecodeError) as error:
        raise Complaint(f"{path}: no testnet has said here how to attack: {error}", Exit.CONFIG) from error
    if role.kind not in KINDS:
        raise Complaint(f"{path}: no kind is called '{role.kind}'", Exit.CONFIG)
    return role


def write_role(data_dir: Path, role: Role) -> None:
    """Raises OSError."""
    (data_dir / ROLE_NAME).write_bytes(msgspec.json.encode(role))
