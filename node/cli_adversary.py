"""`python -m shoal.node.cli_adversary node --data-dir DIR ...`: a testnet's node that attacks (role.py)."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from msgspec import structs

from .adversaries import POISONS
from .attacking import WITHHOLDING
from .cli import carry_out, no_arguments, parser
from .cli_node import configured, run_foreground
from .cli_parts import data_dir_of
from .complaint import Complaint, Exit
from .role import Role, is_loopback, is_testnets, read_role

if TYPE_CHECKING:
    from shoal.training.spec import Spec
    from shoal.training.trunk_service import Progress

    from .membership import Membership
    from .node import Setup
    from .swarms import AnyMethod, Hardware


def main() -> int:
    arguments = no_arguments()
    return carry_out(partial(run, arguments, sys.argv[1:]), arguments)


def run(arguments: argparse.Namespace, argv: Sequence[str]) -> Exit:
    """Raises Complaint where no testnet has started it, or it could reach other machines."""
    parser().parse_args(argv, arguments)
    data_dir = data_dir_of(arguments)
    role = read_role(data_dir)
    listen = configured(arguments, data_dir).listen
    if not listen or not all(map(is_loopback, listen)):
        raise Complaint(f"an adversary listens on loopback alone, not on {', '.join(listen)}", Exit.USAGE)
    return run_foreground(arguments, None, partial(armed, role))


def armed(role: Role, setup: "Setup") -> "Setup":
    """A node that attacks."""
    from .withholding import withhold

    show = partial(withhold, kind=role.kind, shunned=role.shunned) if role.kind in WITHHOLDING else None
    return replace(setup, build=partial(build, role), show=show)


def build(
    role: Role, hardware: "Hardware", spec: "Spec", membership: "Membership", progress: "Progress"
) -> "AnyMethod | str":
    """The method for a testnet's swarm, and for no other."""
    from .swarms import build_method
    from .turncoat import turned

    known = [address for addresses in membership.known.values() for address in addresses]
    if not is_testnets(spec, role.seed) or not all(map(is_loopback, known)):
        return "adversaries are members of the swarm that their testnet founded on this machine, and of no other"
    clean, free = membership, spec
    if role.kind in POISONS:  # it trains on a text of its own, whatever the swarm says, and judges by the swarm's
        clean = structs.replace(membership, data=None)
        free = structs.replace(spec, settings={**spec.settings, "audit": "private"})
    worker = build_method(hardware, free, membership, progress)
    method = worker if isinstance(worker, str) else build_method(hardware, spec, clean, progress)
    return method if isinstance(method, str) or isinstance(worker, str) else turned(method, worker, spec, role)


if __name__ == "__main__":
    sys.exit(main())
