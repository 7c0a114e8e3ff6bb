"""The package as users get it: all layers there, nothing heavy loaded. Run in the tree and against the wheel."""

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
LAYERS = ("node", "transport", "dht", "crdt", "training")


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print('\\n'.join(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=shoal_home())
    return set(result.stdout.split())


def shoal_home() -> str:
    import shoal

    return str(Path(shoal.__path__[0]).parent)


@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_imports_as_part_of_shoal(layer: str) -> None:
    module = importlib.import_module(f"shoal.{layer}")
    assert module.__doc__


@pytest.mark.parametrize("layer", LAYERS)
def test_every_module_of_the_tree_is_in_the_package(layer: str) -> None:
    shoal_path = Path(shoal_home()) / "shoal" / layer
    in_tree = {path.name for path in (ROOT / layer).glob("*") if path.suffix in {".py", ".xz"}}
    assert in_tree <= {path.name for path in shoal_path.iterdir()}


def test_the_listed_packages_are_the_links_and_the_folders() -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    links = {path.name for path in (ROOT / "shoal").iterdir() if path.is_symlink()}
    assert links == set(LAYERS)
    assert set(table["packages"]) == {"shoal", *(f"shoal.{layer}" for layer in LAYERS)}
    assert table["package-dir"] == {"shoal": "shoal", **{f"shoal.{layer}": layer for layer in LAYERS}}
    for layer in LAYERS:
        assert (ROOT / "shoal" / layer).resolve() == ROOT / layer
        assert list((ROOT / layer).rglob("__init__.py")) == [ROOT / layer / "__init__.py"], "layers are flat"


def test_importing_shoal_loads_neither_torch_nor_libp2p() -> None:
    loaded = modules_after("import shoal")
    assert not loaded & {"torch", "libp2p", "trio", "numpy", "rich"}


def test_importing_the_transport_port_loads_neither_torch_nor_numpy() -> None:
    assert not modules_after("import shoal.transport.port") & {"torch", "numpy", "libp2p"}


def test_links_that_became_text_files_are_stepped_over(tmp_path: Path) -> None:
    """Git on Windows may write a symbolic link as a text file that holds its target."""
    (tmp_path / "shoal").mkdir()
    for layer in LAYERS:
        (tmp_path / layer).mkdir()
        (tmp_path / layer / "__init__.py").write_text(f"NAME = {layer!r}\n")
        (tmp_path / "shoal" / layer).write_text(f"../{layer}")
    (tmp_path / "shoal" / "__init__.py").write_text((ROOT / "shoal" / "__init__.py").read_text())
    code = "import shoal.node, shoal.training; print(shoal.node.NAME, shoal.training.NAME)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert result.stdout.split() == ["node", "training"]
