"""Structured logs: an event with fields, as one readable line or as one JSON object, on standard error.

    log.info("round closed", swarm="3fa9c1", round=12, contributors=4)

What libp2p and other libraries log goes the same way from `warning` on.
"""

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TextIO, cast


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
        line = f"{clock} {level}{record.getMessage()}{'  ' if fields else ''}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    fields: dict[str, object] = getattr(record, "fields", {})
    return fields


def readable(value: object) -> str:
    """A field for people: floats short, text with spaces in quotes, lists without brackets' noise."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        items = cast(Mapping[object, object], value).items()
        return ",".join(f"{name}:{readable(item)}" for name, item in items)
    if isinstance(value, list | tuple):
        return ",".join(str(item) for item in cast(Sequence[object], value))
    text = str(value)
    return json.dumps(text) if " " in text or not text.isprintable() else text


def set_up_logs(level: str, *, is_json: bool, stream: TextIO | None = None) -> None:
    """Send the logs of this process to `stream` (standard error), once; a second call replaces the first."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if is_json else ReadableLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("shoal").setLevel(level.upper())
    # libp2p logs at error what a peer did wrong and what its own retries mend; the host says what matters.
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
