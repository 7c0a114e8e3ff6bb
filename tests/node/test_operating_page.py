"""docs/operating.md says what the program does."""

import json
from pathlib import Path

import msgspec

from shoal.node.complaint import Exit
from shoal.node.config import Config, description

PAGE = (Path(__file__).resolve().parent.parent.parent / "docs" / "operating.md").read_text()


def test_every_setting_stands_in_the_table_with_its_default_and_meaning() -> None:
    for key, default in msgspec.structs.asdict(Config()).items():
        assert f"| `{key}` | `{json.dumps(default)}` | {description(key)} |" in PAGE


def test_every_exit_code_stands_in_the_table() -> None:
    for code in Exit:
        assert f"| {code.value} | {code.name.lower()} |" in PAGE
