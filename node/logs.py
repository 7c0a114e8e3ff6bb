"""Structured logs: an event with fields, as one readable line or as one JSON object, on standard error.

    log.info("round closed", swarm="3fa9c1", round=12, contributors=4)

What libp2p and other libraries log goes the same way from `warning` on.

A pipe or a terminal that nobody reads holds the node up no longer than it takes to notice: its lines are dropped and
counted. (Rejected: a queue and a thread that empties it. The pipe is a queue already, of 64 KiB, and a thread's would
lose the last lines of a process that ends at once, which are those that matter.)
"""

import json
import logging
import os
import select
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TextIO, cast

from .visible import quoted, visible

PIECE_CHARS = 1000  # at most 4,000 bytes: POSIX promises that a pipe that is ready takes 4,096 without waiting


class Log:
    """Writes events of one component. Fields are values, not text, so that programs can read them."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"shoal.{name}")

    def debug(self, event: str, **fields: object) -> None:
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._write(logging.ERROR, event, fields)

    def _write(self, level: int, event: str, fields: dict[str, object]) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", event, extra={"fields": fields})


class JsonLines(logging.Formatter):
    """{"time": seconds since 1970, "level", "component", "event", then the event's own fields}"""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "component": record.name.removeprefix("shoal."),
            "event": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class ReadableLines(logging.Formatter):
    """12:34:56 event  field=value field=value"""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        fields = " ".join(f"{name}={readable(value)}" for name, value in fields_of(record).items())
        line = f"{clock} {level}{quoted(record.getMessage())}{'  ' if fields else ''}{fields}"
        return f"{line}\n{visible(self.formatException(record.exc_info))}" if record.exc_info else line


class Lines(logging.Handler):
    """Writes to a stream what it takes without waiting."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._dropped_count = 0
        self._start = ""  # of the next line

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record) + "\n"
        if self._dropped_count:
            text = f"{self._start}{self.format(self._loss())}\n{text}"
        try:
            is_written = self._write(text)
        except (OSError, ValueError):  # the disk is full, the terminal gone or the stream closed: nowhere to say so
            is_written = False
        self._dropped_count = 0 if is_written else self._dropped_count + 1

    def _write(self, text: str) -> bool:
        for start in range(0, len(text), PIECE_CHARS):
            if not is_ready(self._stream):
                self._start = "\n" if start else self._start  # a line of which a part is written has to be ended
                return False
            self._stream.write(text[start : start + PIECE_CHARS])
            self._stream.flush()
        self._start = ""
        return True

    def _loss(self) -> logging.LogRecord:
        fields = {"count": self._dropped_count}
        told = {"name": "shoal.logs", "levelno": logging.WARNING, "levelname": "WARNING", "fields": fields}
        return logging.makeLogRecord({**told, "msg": "lines dropped: nobody read them"})


def is_ready(stream: TextIO) -> bool:
    """Whether a write of PIECE_CHARS returns at once. True where the system cannot tell."""
    try:
        return os.name != "posix" or bool(select.select([], [stream.fileno()], [], 0)[1])
    except (OSError, ValueError):  # no descriptor behind it, or one beyond what select takes
        return True


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    fields: dict[str, object] = getattr(record, "fields", {})
    return fields


def readable(value: object) -> str:
    """A field for people: floats short, text with spaces in quotes, lists without brackets' noise."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        items = cast(Mapping[object, object], value).items()
        return ",".join(f"{readable(name)}:{readable(item)}" for name, item in items)
    if isinstance(value, list | tuple):
        return ",".join(quoted(str(item)) for item in cast(Sequence[object], value))
    text = str(value)
    return json.dumps(text, ensure_ascii=not text.isprintable()) if " " in text else quoted(text)


def set_up_logs(level: str, *, is_json: bool, stream: TextIO | None = None) -> None:
    """Send the logs of this process to `stream` (standard error), once; a second call replaces the first."""
    handler = Lines(stream or sys.stderr)
    handler.setFormatter(JsonLines() if is_json else ReadableLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("shoal").setLevel(level.upper())
    # libp2p logs at error what a peer did wrong and what its own retries mend; the host says what matters.
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
