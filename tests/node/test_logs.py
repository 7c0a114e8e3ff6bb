"""Log lines for programs and for people."""

import contextlib
import io
import json
import logging
import os
import sys
from collections.abc import Iterator

import pytest

from shoal.node.logs import Log, set_up_logs


@pytest.fixture(autouse=True)
def _leave_logging_as_it_was() -> Iterator[None]:
    root, levels = logging.getLogger(), {name: logging.getLogger(name).level for name in ("", "shoal", "libp2p")}
    handlers = root.handlers[:]
    yield
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def test_an_event_becomes_one_json_object_with_its_fields_as_values() -> None:
    stream = io.StringIO()
    set_up_logs("info", is_json=True, stream=stream)
    Log("swarms").info("round closed", round=3, contributors=["a", "b"])
    line = json.loads(stream.getvalue())
    assert (line["component"], line["event"], line["level"]) == ("swarms", "round closed", "info")
    assert (line["round"], line["contributors"]) == (3, ["a", "b"])
    assert line["time"] > 0


def test_an_event_becomes_one_readable_line() -> None:
    stream = io.StringIO()
    set_up_logs("info", is_json=False, stream=stream)
    Log("node").warning("slow", seconds=0.123456, reason="a b", names=("x", "y"))
    assert stream.getvalue()[9:] == 'warning: slow  seconds=0.1235 reason="a b" names=x,y\n'


def test_less_important_events_than_asked_for_are_left_out() -> None:
    stream = io.StringIO()
    set_up_logs("warning", is_json=False, stream=stream)
    Log("node").info("small talk")
    assert stream.getvalue() == ""


def test_a_log_line_cannot_be_forged_by_a_value_with_a_line_break() -> None:
    stream = io.StringIO()
    set_up_logs("info", is_json=False, stream=stream)
    Log("node").info("peer says", name="x\n12:00:00 all is well")
    assert stream.getvalue().count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="pipes as on POSIX")
def test_a_pipe_that_nobody_reads_holds_nobody_up_and_what_is_dropped_is_counted() -> None:
    reading, writing = os.pipe()
    with open(writing, "w") as stream, open(reading, "rb", buffering=0) as reader:
        set_up_logs("info", is_json=True, stream=stream)
        log = Log("node")
        for number in range(3000):  # more than a pipe holds: a log that waits for its reader would never come back
            log.info("line", number=number)
        log.info("very long", padding="x" * 200_000)
        os.set_blocking(reading, False)
        text = b""
        for _ in range(2):
            while data := reader.read(65_536):
                text += data
            log.info("very long", padding="x" * 200_000)
        while data := reader.read(65_536):
            text += data
        log.info("read again")
        text += reader.read(65_536)
    lines: list[dict[str, object]] = []
    for line in text.decode().splitlines():
        with contextlib.suppress(ValueError):  # what was cut in its middle
            lines.append(json.loads(line))
    events = [line["event"] for line in lines]
    assert 100 < events.count("line") < 3000
    assert events[-2:] == ["lines dropped: nobody read them", "read again"]
    dropped = [int(str(line["count"])) for line in lines if line["event"] == "lines dropped: nobody read them"]
    assert dropped[-1] + events.count("line") in (3002, 3003)


def test_a_line_longer_than_a_pipe_takes_at_once_arrives_whole() -> None:
    stream = io.StringIO()
    set_up_logs("info", is_json=False, stream=stream)
    Log("node").info("long", padding="x" * 20_000)
    assert stream.getvalue().endswith("x" * 20_000 + "\n")


@pytest.mark.parametrize("field", ["\x1b[2J\n", ["\x1b[2J\n"], {"\x1b[2J\n": 1}, {"a": ["\x1b[2J\n"]}])
def test_what_peers_wrote_moves_no_cursor_wherever_it_stands_in_a_line(field: object) -> None:
    stream = io.StringIO()
    set_up_logs("info", is_json=False, stream=stream)
    Log("node").info("peer says", field=field)
    logging.getLogger("shoal.transport").warning("%s says", "\x1b[2J\n12:00:00 all is well")
    assert stream.getvalue().count("\n") == 2
    assert stream.getvalue().replace("\n", "").isprintable()
