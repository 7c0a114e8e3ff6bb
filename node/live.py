"""What a person sees while a testnet runs: a live table on a terminal, plain lines of progress anywhere else."""

import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

from .report_html import count, duration, short, size
from .tally import Row, View

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

DIGEST_CHARS = 8
BAR_CHARS = 30
REFRESH_PER_S = 4  # of the table, and of what it shows


class Display(Protocol):
    """Shows a run as it goes on."""

    def show(self, view: View) -> None:
        """Call it as often as you like; it draws what is new."""
        ...

    def say(self, line: str) -> None:
        """One line that stays."""
        ...


class PlainLines:
    """One line for each round that all nodes closed: for logs, pipes and CI."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._closed = 0

    def show(self, view: View) -> None:
        is_evaluated = any(row.evaluated >= view.rounds_closed for row in view.rows)
        if view.rounds_closed > self._closed and is_evaluated:
            self._closed = view.rounds_closed
            self.say(round_line(view))

    def say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class LiveTable:
    """The table, redrawn in place. Made by `open_display`."""

    def __init__(self, console: "Console", title: str) -> None:
        from rich.live import Live

        self._title = title
        self.live = Live(console=console, refresh_per_second=REFRESH_PER_S, transient=False)

    def show(self, view: View) -> None:
        self.live.update(draw(view, self._title))

    def say(self, line: str) -> None:
        self.live.console.print(line, markup=False, highlight=False)


@contextmanager
def open_display(title: str, stream: TextIO | None = None) -> Generator[Display, None, None]:
    """The display that fits `stream` (standard error by default, so that standard output stays free for --json)."""
    target: TextIO = sys.stderr if stream is None else stream
    if not target.isatty():
        yield PlainLines(target)
        return
    from rich.console import Console

    table = LiveTable(Console(file=target), title)
    with table.live:
        yield table


@asynccontextmanager
async def shown(display: Display, look: Callable[[], View]) -> AsyncGenerator[None]:
    """Show what `look` sees, again and again while the block runs, and at its end."""
    import trio

    async def refresh() -> None:
        while True:
            display.show(look())
            await trio.sleep(1 / REFRESH_PER_S)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(refresh)
        yield
        nursery.cancel_scope.cancel()
    display.show(look())


def draw(view: View, title: str) -> "RenderableType":
    """The table of a moment."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), expand=True, border_style="dim")
    for name in ("node", "round", "loss", "tokens/s", "sent", "received", "peers"):
        table.add_column(name, justify="left" if name == "node" else "right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("doing", ratio=1, no_wrap=True, overflow="ellipsis")
    common = most_common_digest(view)
    for row in view.rows:
        style = "" if row.is_running else "red"
        agrees = not row.digest or row.digest == common
        table.add_row(
            *cells(row)[:-2],
            Text(row.digest[:DIGEST_CHARS] or "-", style="green" if agrees else "yellow"),
            Text(row.doing),
            style=style,
        )
    foot = Table.grid(padding=(0, 2))
    bar = [ProgressBar(total=view.rounds, completed=view.rounds_closed, width=BAR_CHARS)] if view.rounds else []
    foot.add_row(*bar, Text(progress(view)))
    return Group(Text(title, style="bold"), table, foot)


def cells(row: Row) -> list[str]:
    """A row's columns: node, round, loss, tokens/s, sent, received, peers, state, doing."""
    loss = row.validation_loss if row.validation_loss is not None else row.training_loss
    return [
        short(row.peer),
        str(row.round),
        "-" if loss is None else f"{loss:.3f}",
        "-" if row.tokens_per_s is None else count(round(row.tokens_per_s)),
        size(row.bytes_sent),
        size(row.bytes_received),
        "-" if row.peers is None else str(row.peers),
        row.digest[:DIGEST_CHARS] or "-",
        row.doing,
    ]


def most_common_digest(view: View) -> str:
    """What most nodes that are at the newest round have; ties by the digest."""
    newest = max((row.round for row in view.rows), default=0)
    digests = [row.digest for row in view.rows if row.round == newest and row.digest]
    return min(digests, key=lambda digest: (-digests.count(digest), digest), default="")


def progress(view: View) -> str:
    """How far, how long, how long still."""
    done = f"round {view.rounds_closed}" + (f" of {view.rounds}" if view.rounds else "")
    left = f", about {duration(round(view.left_s))} left" if view.left_s else ""
    return f"{done}, {duration(round(view.elapsed_s))}{left}"


def round_line(view: View) -> str:
    """The newest round in one line."""
    newest = max((row.evaluated for row in view.rows), default=0)
    losses = [row.validation_loss for row in view.rows if row.evaluated == newest and row.validation_loss is not None]
    speeds = [row.tokens_per_s for row in view.rows if row.tokens_per_s is not None]
    common = most_common_digest(view)
    equal = sum(row.digest == common for row in view.rows)
    loss = f"loss {losses[0]:.3f}  " if losses else ""
    return (
        f"{progress(view)}  {loss}{count(round(sum(speeds)))} tokens/s  "
        f"sent {size(sum(row.bytes_sent for row in view.rows))}  "
        f"state {common[:DIGEST_CHARS] or '-'} on {equal} of {len(view.rows)}"
    )
