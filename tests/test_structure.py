"""The map of rooms: imports point down, and data touches no device."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "sdfl_jax"

# A room may import what stands below it, and its own line's members where `=` joins
# them; never what stands above.
FLOORS = [
    {"errors", "huge_pages"},
    {"files", "config", "pth", "lock", "preemption", "patterns", "torch_names"},
    {"ops", "processes", "sharding", "page", "hashes", "overlay", "compiled"},
    {"timeline"},
    {"models", "data", "losses", "metrics", "optim"},
    {"weights", "state", "explain", "card"},
    {"checkpoint", "steps", "evaluators"},
    {"report"},
    {"meter", "experiment", "predictor"},
    {"validation", "scoring", "dry_run"},
    {"train"},
    {"serve"},
    {"main", "evaluate", "predict", "explain.__main__", "weights.__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


def room_of(path: Path) -> str:
    """The folder or file below the package; a room's command may be one by itself."""
    room, *below = path.relative_to(PACKAGE).with_suffix("").parts
    command = ".".join([room, *below])
    return command if command in LEVEL else room


def imported_modules(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imported_rooms(path: Path) -> set[str]:
    return {
        name.split(".")[1]
        for name in imported_modules(path)
        if name.startswith("sdfl_jax.") and name != "sdfl_jax.__version__"
    }


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    if path == PACKAGE / "__init__.py":
        assert not imported_rooms(path)
        return
    room = room_of(path)
    upward = {
        other for other in imported_rooms(path) - {room} if LEVEL[other] >= LEVEL[room]
    }
    assert not upward, f"{room} imports {upward}, which stand beside or above it"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_networks_rooms_know_flax_modules(path):
    if any(name.startswith("flax.linen") for name in imported_modules(path)):
        assert room_of(path) in ("models", "steps", "state")


def test_data_starts_no_device():
    code = (
        "import sdfl_jax.data.pipeline, sdfl_jax.data.build, sdfl_jax.data.forge, sys;"
        "import sdfl_jax.data.audit, sdfl_jax.data.explore;"
        "import sdfl_jax.data.layouts.__main__, sdfl_jax.data.tfds_builder;"
        "jax = sys.modules.get('jax');"
        "from jax._src import xla_bridge as x;"
        "sys.exit(bool(jax) and x.backends_are_initialized())"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_nothing_imports_tensorflow_or_torch():
    for path in FILES:
        roots = {name.split(".")[0] for name in imported_modules(path)}
        assert not roots & {"tensorflow", "torch"}, path


def test_train_reads_as_one_page():
    assert len((PACKAGE / "train.py").read_text().splitlines()) < 300
