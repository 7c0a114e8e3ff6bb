"""What a person sees of a run, on a terminal and in a log."""

import io
from dataclasses import replace

from shoal.node.live import PlainLines, draw, most_common_digest, open_display, progress, round_line
from shoal.node.tally import Row, View

ROW = Row(
    peer="12D3KooWabcdef",
    is_running=True,
    round=3,
    doing="training round 4",
    training_loss=2.9,
    validation_loss=2.81,
    evaluated=3,
    tokens_per_s=5900.4,
    bytes_sent=10_200_000,
    bytes_received=9_900_000,
    peers=3,
    digest="ab" * 32,
)
OTHER = replace(ROW, peer="12D3KooWuvwxyz")
VIEW = View((ROW, OTHER), rounds_closed=3, rounds=12, elapsed_s=27.2, left_s=81.0)


def on_a_terminal(view: View) -> str:
    from rich.console import Console

    text = io.StringIO()
    Console(file=text, width=120, force_terminal=True, color_system=None).print(draw(view, "diloco on 2 nodes"))
    return text.getvalue()


def test_a_run_that_is_over_tells_no_time_left() -> None:
    assert progress(replace(VIEW, rounds_closed=12, left_s=0.0)) == "round 12 of 12, 27 s"


def test_the_table_shows_each_node_with_all_its_figures() -> None:
    shown = on_a_terminal(VIEW)
    for part in (
        "abcdef",
        "uvwxyz",
        "2.810",
        "5,900",
        "10.2 MB",
        "9.9 MB",
        "abababab",
        "training round 4",
        "round 3 of 12",
    ):
        assert part in shown


def test_what_is_not_known_yet_is_a_dash() -> None:
    empty = replace(ROW, training_loss=None, validation_loss=None, tokens_per_s=None, peers=None, digest="")
    shown = on_a_terminal(replace(VIEW, rows=(empty,), left_s=None))
    assert "None" not in shown
    assert " - " in shown


def test_text_from_nodes_is_not_read_as_markup() -> None:
    assert "[bold]x[/bold]" in on_a_terminal(replace(VIEW, rows=(replace(ROW, doing="[bold]x[/bold]"),)))


def test_a_log_gets_one_line_for_each_round() -> None:
    stream = io.StringIO()
    lines = PlainLines(stream)
    lines.show(replace(VIEW, rounds_closed=0))
    lines.show(VIEW)
    lines.show(VIEW)
    lines.show(replace(VIEW, rounds_closed=4))  # not evaluated yet
    lines.show(replace(VIEW, rounds_closed=4, rows=(replace(ROW, evaluated=4), OTHER)))
    assert len(stream.getvalue().splitlines()) == 2


def test_the_line_of_a_round_says_who_agrees() -> None:
    apart = replace(OTHER, digest="cd" * 32)
    assert "state abababab on 2 of 2" in round_line(VIEW)
    assert "state abababab on 1 of 2" in round_line(replace(VIEW, rows=(ROW, apart)))
    assert round_line(VIEW).startswith("round 3 of 12, 27 s, about 81 s left  loss 2.810  11.8 k tokens/s")


def test_the_common_digest_is_that_of_the_newest_round() -> None:
    behind = replace(OTHER, round=2, digest="00" * 32)
    assert most_common_digest(replace(VIEW, rows=(ROW, behind, replace(behind, peer="c")))) == ROW.digest
    assert most_common_digest(replace(VIEW, rows=())) == ""


def test_without_a_terminal_the_display_is_plain() -> None:
    stream = io.StringIO()
    with open_display("run", stream) as display:
        display.show(VIEW)
        display.say("done")
    assert stream.getvalue().endswith("done\n")
    assert "\x1b" not in stream.getvalue()
