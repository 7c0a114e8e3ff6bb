"""`shoal config`: make, show and check the settings of a node."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from .cli_node import add_node_options, configured
from .cli_parts import add_command, data_dir_of, print_json
from .complaint import Complaint, Exit
from .config import CONFIG_NAME, Config, render_config

if TYPE_CHECKING:
    from .cli_parts import Commands


def add_commands(commands: "Commands", parent: argparse.ArgumentParser) -> None:
    config = commands.add_parser(
        "config",
        help="make, show or check the node's settings",
        description="Settings come from config.toml in the data directory; flags of the same names overrule it.",
        epilog="examples:\n  shoal config init     then edit the file that it names\n  shoal config check",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[parent],
    )
    verbs = config.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_command(
        verbs,
        "init",
        run_init,
        parent=parent,
        help="write config.toml with every key, its meaning and its default",
        epilog="  shoal config init\n  shoal config init --data-dir /srv/shoal",
    )
    show = add_command(
        verbs,
        "show",
        run_show,
        parent=parent,
        help="show the settings in force: file and flags over defaults",
        epilog="  shoal config show\n  shoal config show --threads 2 --json",
    )
    add_node_options(show)
    check = add_command(
        verbs,
        "check",
        run_check,
        parent=parent,
        help="say whether the file is right, and if not, which key is wrong",
        epilog="  shoal config check\n  shoal config check --config draft.toml",
    )
    add_node_options(check)


def config_path(arguments: argparse.Namespace) -> Path:
    return Path(arguments.config).expanduser() if arguments.config is not None else data_dir_of(arguments) / CONFIG_NAME


def run_init(arguments: argparse.Namespace) -> Exit:
    path = config_path(arguments)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with path.open("x", encoding="utf-8") as file:
            file.write(render_config(Config(), is_commented=True))
    except FileExistsError as error:
        raise Complaint(f"{path} is there already: edit it, or remove it first", Exit.CONFIG) from error
    except OSError as error:
        raise Complaint(f"cannot write {path}: {error.strerror}", Exit.CONFIG) from error
    print_json({"path": str(path)}) if arguments.json else print(f"wrote {path}: take the # off the keys you change")
    return Exit.OK


def run_show(arguments: argparse.Namespace) -> Exit:
    config = configured(arguments, data_dir_of(arguments))
    if arguments.json:
        print_json(msgspec.to_builtins(config))
    else:
        print(f"# data directory: {data_dir_of(arguments)}\n")
        print(render_config(config))
    return Exit.OK


def run_check(arguments: argparse.Namespace) -> Exit:
    configured(arguments, data_dir_of(arguments))
    path = config_path(arguments)
    where = str(path) if path.exists() else f"there is no {path}: the defaults hold"
    print_json({"ok": True, "path": str(path)}) if arguments.json else print(f"ok: {where}")
    return Exit.OK
