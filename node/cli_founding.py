"""`shoal swarm create|fork`: founding swarms, from nothing or from what another one has learned."""

import argparse
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cli_node import add_member_options, add_node_options, paths, say_what_next, with_node
from .cli_parts import add_command, add_swarm, data_dir_of, print_json, seen
from .complaint import Complaint, Exit
from .local_client import LocalClient

if TYPE_CHECKING:
    from .cli_parts import Commands

SPEC_NAME = "spec.toml"
SPEC_BYTES_MAX = 1024 * 1024

DEFAULT_SPEC = """\
# What a swarm trains, and by which rules. Fixed for good once the swarm is created; everybody who joins sees it first.
# `shoal swarm create THIS_FILE` founds another swarm with it.
name = "shakespeare"
method = "diloco"
model = "gpt-0.8m"      # gpt-0.2m, gpt-0.8m, gpt-3m, gpt-11m, gpt-25m, gpt-124m: parameters
data = "shakespeare"    # or "file:<BLAKE3 of a text>", which every member then names with --data
round_s = 60.0          # time to train in before a round is closed
grace_s = 30.0          # after it, for payloads on their way
members_start = 1       # round 1 waits until so many are there
rounds_max = 0          # 0: no end
admission = "invite"    # who has a member's invite joins, with one vote; "list": who is in allowed = ["12D3KooW..."];
                        # "open": anybody, without a vote until a member vouches: take quorum = "two_thirds" then
quorum = "majority"     # more than half of the votes ends a round: nobody may lie; "two_thirds": fewer than a third may
is_public = false       # true: listed where anybody finds it, `shoal swarm list --public`: take admission = "open" then

[settings]              # DiLoCo's own
steps = 50              # inner steps a round
steps_min = 10          # for members slower than the others
steps_max = 200         # for faster ones
codec = "float32"       # or bfloat16, int8: half and a quarter of the bytes
rule = "clipped_mean"   # what members' work becomes: the mean, but for what is over twice as long as usual. It costs
                        # nothing while all are honest, and with reputation, which drops who points away from the
                        # others, it holds best where some are not (docs/robustness.md). Others: mean (for members who
                        # trust one another), median, trimmed_mean, geometric_median, centered_clipping, krum,
                        # multi_krum, mda, nnm_trimmed_mean, nnm_geometric_median, flag
attackers = 0.2         # the share of voters that the rule is to bear
audit = "private"       # "public": members do some of one another's turns again and ban who made up its work, which is
                        # what finds attackers where data differ. For built-in models on the swarm's own text
"""

RECORD_HELP = "how the record's hash begins, or `latest`; `shoal log show` lists records"
FOUNDER_TRAINS = (
    "who founds a swarm trains in it: its vote begins it. Found it on a machine with PyTorch, and join it from here "
    "with `shoal swarm join INVITE --role storage`"
)


def add_commands(verbs: "Commands", parent: argparse.ArgumentParser) -> None:
    create = add_command(
        verbs,
        "create",
        run_create,
        parent=parent,
        help="found a swarm and print an invite to it",
        epilog="""\
  shoal swarm create                        writes spec.toml with the defaults and uses it
  shoal swarm create my-spec.toml           with your own
  shoal swarm create --entry my_model.py    a model of your own; nothing of the file is sent
  shoal swarm create --from tiny@latest my-spec.toml
                                            the same model under new rules, from where swarm tiny stands at this node
""",
    )
    create.add_argument(
        "spec", nargs="?", metavar="SPEC.toml", help="what to train (default: spec.toml in the data directory)"
    )
    create.add_argument(
        "--from",
        dest="origin",
        metavar="SWARM@RECORD",
        help="start from the state that this node has of another swarm: its id or name, and " + RECORD_HELP,
    )
    create.add_argument("--role", choices=("train", "storage"), help="train: who founds a swarm trains in it")
    add_member_options(create)
    add_node_options(create)
    fork = add_command(
        verbs,
        "fork",
        run_fork,
        parent=parent,
        help="go on from a swarm's state as a new swarm of this node's, by the same spec",
        epilog="""\
  shoal swarm fork                        from the newest state that this node has
  shoal swarm fork tiny --from 9bc04d11   only if that is the state after this record

The way out after a split, or for members who can never be a quorum again: agree on who forks, and join with its invite.
Model, data, rules and rounds_max are those of the old spec; the new one names the swarm and record that it goes on
from. It begins as soon as members_min are there, whatever members_start was. Where members are listed, whom they
removed and who signed two records of one round stand on the list no more. For other rules: `shoal swarm create --from`.
""",
    )
    fork.add_argument("--from", dest="record", default="latest", metavar="RECORD", help=RECORD_HELP)
    add_swarm(fork)


def run_create(arguments: argparse.Namespace) -> Exit:
    if arguments.role == "storage":
        raise Complaint(FOUNDER_TRAINS, Exit.USAGE)
    spec = read_spec(arguments)

    def command(node: LocalClient, is_own: bool) -> Exit:
        given = {"origin": arguments.origin, "role": arguments.role, **paths(arguments)}
        swarm = node.call("swarm.create", spec=spec, **given)
        say_founded(arguments, swarm)
        if not arguments.json:
            say_what_next(is_own)
        sys.stdout.flush()
        return Exit.OK

    return with_node(arguments, command)


def run_fork(arguments: argparse.Namespace) -> Exit:
    with LocalClient(data_dir_of(arguments)) as node:
        swarm = node.call("swarm.fork", swarm=arguments.swarm, record=arguments.record)
    say_founded(arguments, swarm)
    if not arguments.json:
        old = seen(swarm["parent"])
        print(f"This node trains in both: `shoal swarm leave {old['id'][:12]}` leaves the old one.")
    return Exit.OK


def say_founded(arguments: argparse.Namespace, swarm: dict[str, Any]) -> None:
    if arguments.json:
        print_json(swarm)
        return
    swarm = seen(swarm)
    print(f"created swarm {swarm['name']} ({swarm['id'][:12]}){origin_words(swarm['parent'])}. Others join it with\n")
    print(f"shoal swarm join {swarm['invite']}\n")


def origin_words(parent: dict[str, Any] | None) -> str:
    if parent is None:
        return ""
    return f" from record {parent['record'][:12]} of round {parent['round']} of {parent['name']} ({parent['id'][:12]})"


def read_spec(arguments: argparse.Namespace) -> dict[str, Any]:
    """The spec file as a table. Raises Complaint."""
    if arguments.spec is not None:
        path = Path(arguments.spec).expanduser()
    else:
        path = data_dir_of(arguments) / SPEC_NAME
        write_default_spec(path)
    try:
        with path.open("rb") as file:
            text = file.read(SPEC_BYTES_MAX + 1)
        if len(text) > SPEC_BYTES_MAX:
            raise Complaint(f"{path} is larger than {SPEC_BYTES_MAX} bytes: that is no spec", Exit.SPEC)
        return tomllib.loads(text.decode())
    except OSError as error:
        raise Complaint(f"cannot read {path}: {error.strerror}", Exit.SPEC) from error
    except (ValueError, RecursionError) as error:  # among them TOMLDecodeError and UnicodeDecodeError
        raise Complaint(f"{path} is not TOML: {error}", Exit.SPEC) from error


def write_default_spec(path: Path) -> None:
    """Put the default spec there for its owner to read and change; what is there already is theirs and stays."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with path.open("x", encoding="utf-8") as file:
            file.write(DEFAULT_SPEC)
    except FileExistsError:
        print(f"using {path}", file=sys.stderr)
    except OSError as error:
        raise Complaint(f"cannot write {path}: {error.strerror}", Exit.CONFIG) from error
    else:
        print(f"wrote {path}", file=sys.stderr)
