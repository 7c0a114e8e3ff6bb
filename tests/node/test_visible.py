"""What others wrote, on a person's terminal."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from shoal.node.cli_parts import seen
from shoal.node.cli_swarm import describe_preview
from shoal.node.complaint import Complaint
from shoal.node.preview import preview
from shoal.node.visible import quoted, visible
from shoal.training.spec import Spec
from shoal.transport.identity import Identity

CREATOR = Identity.from_seed(bytes(32)).peer_id
CLEAR = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e"


@given(st.text())
def test_whatever_a_text_holds_only_what_can_be_looked_at_remains(text: str) -> None:
    assert all(char.isprintable() or char == "\n" for char in visible(text))
    assert quoted(text).isprintable()
    assert str(Complaint(text)).isprintable()


@given(st.text().filter(str.isprintable).filter(lambda text: "\ufffd" not in text))
def test_ordinary_text_of_any_language_stays_as_it_is(text: str) -> None:
    assert visible(text) == quoted(text) == seen(text) == text


def test_a_specs_author_adds_no_line_to_what_joining_means_and_moves_no_cursor() -> None:
    spec = Spec(creator=CREATOR, nonce=bytes(16), name=f"toy\nmethod    harmless{CLEAR}", data=CLEAR, model=CLEAR)
    told = msgspec.to_builtins(preview(spec, threads=1, is_torch_here=True))
    lines = describe_preview(seen(told)).split("\n")
    assert all(line.isprintable() for line in lines)
    assert sum(line.startswith("method ") for line in lines) == 1


def test_an_answer_keeps_its_shape_and_its_numbers() -> None:
    answer = {"a": [1, 0.5, None, True, "x"], "b": {"c": "d"}}
    assert seen(answer) == answer
    assert seen({"\x1b": ["\x1b[0m"]}) == {'"\\u001b"': ['"\\u001b[0m"']}
