"""Log lines for programs and for people."""

import io
import json
import logging
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
