"""What the commands share: how they are declared, where their node is, and how figures read."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .complaint import Exit
from .visible import quoted

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # pyright: ignore[reportPrivateUsage]

Run = Callable[[argparse.Namespace], Exit]


def add_command(
    commands: "Commands", name: str, run: Run, *, parent: argparse.ArgumentParser, help: str, epilog: str = ""
) -> argparse.ArgumentParser:
    """Declare a command. `help` is one sentence, `epilog` examples to copy."""
    parser = commands.add_parser(
        name,
        help=help,
        description=help[:1].upper() + help[1:] + ".",
        epilog=f"examples:\n{epilog}" if epilog else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[parent],
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    return parser


def add_swarm(command: argparse.ArgumentParser) -> None:
    """Which of the node's swarms a command is about."""
    command.add_argument(
        "swarm", nargs="?", metavar="SWARM", help="id, its beginning, or name; needed if there are several"
    )


def data_dir_of(arguments: argparse.Namespace) -> Path:
    """The data directory: --data-dir, or this system's usual place."""
    if arguments.data_dir is not None:
        return Path(arguments.data_dir).expanduser().absolute()
    import platformdirs

    return platformdirs.user_data_path("shoal", appauthor=False)


def seen(answer: Any) -> Any:
    """A node's answer for people: each text in it, which somebody else may have written, in one visible line."""
    match answer:
        case str():
            return quoted(answer)
        case list():
            return [seen(item) for item in answer]  # pyright: ignore[reportUnknownVariableType]
        case dict():
            return {quoted(name): seen(value) for name, value in cast(dict[str, Any], answer).items()}
        case _:
            return answer


def print_json(value: object) -> None:
    print(json.dumps(value, indent=2))


def table(rows: list[list[Any]]) -> str:
    """Rows of text in columns, the first row the heading."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in texts) for column in range(len(texts[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in texts)
    return "\n".join(line.rstrip() for line in lines)


def counted(count: int, thing: str) -> str:
    """How many of something."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def are(count: int) -> str:
    """The verb that goes with so many."""
    return "is" if count == 1 else "are"


def size(count: float | None) -> str:
    """Bytes for people, in powers of ten."""
    if count is None:
        return "unknown"
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def span(seconds: float | None) -> str:
    """A time for people."""
    if seconds is None:
        return "unknown"
    if seconds < 0.0001:
        return "0 ms"
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
