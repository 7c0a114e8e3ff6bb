"""Settings from TOML and flags."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.node.complaint import Complaint, Exit, nearest
from shoal.node.config import (
    ADDRESS_EXAMPLES,
    CONFIG_BYTES_MAX,
    KEYS,
    Config,
    description,
    load_config,
    parse_config,
    render_config,
)


def complaint(text: str) -> str:
    with pytest.raises(Complaint) as caught:
        parse_config(text, "config.toml")
    assert caught.value.code is Exit.CONFIG
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_empty_file_gives_the_defaults() -> None:
    assert parse_config("", "config.toml") == Config()


@given(
    st.builds(
        Config,
        threads=st.integers(0, 1024),
        nice=st.integers(0, 19),
        disk_gb_max=st.floats(0.001, 1e6),
        json_logs=st.booleans(),
        device=st.sampled_from(("auto", "cpu", "cuda")),
        stay_connected_to=st.lists(
            st.text(st.characters(codec="utf-8"), max_size=20).map(lambda x: f"/{x}"), max_size=3
        ).map(tuple),
    )
)
def test_what_is_shown_reads_back_as_the_same_settings(config: Config) -> None:
    assert parse_config(render_config(config), "config.toml") == config


def test_what_init_writes_is_the_defaults_and_explains_every_key() -> None:
    text = render_config(Config(), is_commented=True)
    assert parse_config(text, "config.toml") == Config()
    for key in KEYS:
        assert f"#{key} = " in text
        assert f"# {description(key)}" in text


def test_a_mistyped_key_is_refused_with_the_nearest_valid_one() -> None:
    assert "did you mean 'threads'?" in complaint("thread = 2")
    assert "did you mean 'stay_connected_to'?" in complaint("stay_conected_to = []")


def test_a_key_that_resembles_nothing_is_refused_with_all_valid_ones() -> None:
    assert "valid are: announce, bulk_connections_max, connections_max" in complaint("xyzzy = 1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('threads = "two"', "threads: expected int, got str"),
        ("threads = -1", "threads: expected int >= 0"),
        ("nice = 20", "nice: expected int <= 19"),
        ("listen = []", "listen: expected array of length >= 1"),
        ('listen = ["localhost:80"]', "listen[0]: expected an address such as /ip4/0.0.0.0/tcp/4011"),
        ('device = "tpu"', "device: invalid enum value 'tpu'"),
        ("threads = ", "is not TOML"),
        ("threads = " + "[" * 5_000, "is not TOML: maximum recursion depth exceeded"),
        ("threads = " + "9" * 5_000, "is not TOML: Exceeds the limit"),
    ],
)
def test_a_bad_value_is_refused_with_its_key_and_what_was_expected(text: str, expected: str) -> None:
    message = complaint(text)
    assert message.startswith("config.toml")
    assert expected in message


def test_flags_overrule_the_file_and_the_file_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("threads = 3\nnice = 7\n")
    config = load_config(path, {"threads": 4}, is_required=True)
    assert (config.threads, config.nice, config.device) == (4, 7, "auto")


def test_a_missing_file_means_the_defaults_unless_it_was_asked_for(tmp_path: Path) -> None:
    assert load_config(tmp_path / "config.toml", {"nice": 1}, is_required=False) == Config(nice=1)
    with pytest.raises(Complaint, match=r"there is no .*: `shoal config init` makes one"):
        load_config(tmp_path / "config.toml", {}, is_required=True)


@pytest.mark.parametrize("key", ["listen", "announce", "stay_connected_to", "relays"])
def test_a_bad_address_among_the_flags_is_refused_with_the_flag_and_an_example(tmp_path: Path, key: str) -> None:
    flag = "--" + key.replace("_", "-")
    with pytest.raises(Complaint, match=rf"^{flag}: expected an address such as /ip4/[0-9.]+/tcp/4011") as caught:
        load_config(tmp_path / "config.toml", {key: ["localhost:80"]}, is_required=False)
    assert caught.value.code is Exit.CONFIG


def test_every_key_that_holds_addresses_has_an_example_that_it_takes() -> None:
    for key, example in ADDRESS_EXAMPLES.items():
        assert getattr(parse_config(f'{key} = ["{example}"]', "config.toml"), key) == (example,)


def test_a_data_directory_that_is_a_file_is_refused_as_such(tmp_path: Path) -> None:
    file = tmp_path / "small.txt"
    file.touch()
    with pytest.raises(Complaint, match=r"^--data-dir must be a directory: .*small\.txt is not one$") as caught:
        load_config(file / "config.toml", {}, is_required=False)
    assert caught.value.code is Exit.CONFIG
    with pytest.raises(Complaint, match=r"^cannot read .*config\.toml: .*small\.txt is not one$"):
        load_config(file / "config.toml", {}, is_required=True)


def test_a_file_that_is_no_text_or_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"threads = 1 # \xff")
    with pytest.raises(Complaint, match="not UTF-8 text: invalid start byte at byte 14"):
        load_config(path, {}, is_required=False)
    path.write_bytes(b"#" * (CONFIG_BYTES_MAX + 1))
    with pytest.raises(Complaint, match="larger than"):
        load_config(path, {}, is_required=False)


@given(st.text(max_size=200))
def test_any_text_gives_settings_or_one_complaint(text: str) -> None:
    with contextlib.suppress(Complaint):
        assert isinstance(parse_config(text, "config.toml"), Config)


def test_a_complaint_is_always_one_line() -> None:
    assert str(Complaint("two\nlines  here")) == "two lines here"


def test_the_nearest_word_is_hinted_at() -> None:
    assert nearest("swarm.lst", ["swarm.list", "status"]) == "did you mean 'swarm.list'?"
