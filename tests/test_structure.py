"""The map of rooms: imports point down, and data touches no device."""

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "sdfl_jax"

# A room may import what stands below it, never what stands beside or above it. Every
# file and folder of `data` is a room; rooms of one floor know nothing of each other.
FLOORS = [
    {"errors", "devices.memory"},
    {"stores", "trees"},
    {"files"},
    {"ops", "devices", "drawing", "metrics", "losses", "optim"},
    # Inside `data`: files, then examples, then streams of them, then the tools.
    {"data", "data.setup", "data.jpeg", "data.videos", "data.lists", "data.origins"},
    {"data.search", "data.workers", "data.parts", "data.whole"},
    {"data.engine", "data.images"},
    {"data.coefficients"},
    {"data.planes", "data.records", "data.transforms"},
    {"data.mixing"},
    {"data.damaged", "data.tiling", "data.degrade", "data.photographs", "data.ahead"},
    {"data.batches"},
    {"data.pipeline", "data.eval_sources"},
    {"data.predictions", "data.build", "data.audit", "data.explore", "data.layouts"}
    | {"data.forge"},
    {"data.tfds_builder", "config"},
    {"models", "evaluators"},
    {"state", "report", "weights"},
    {"checkpoints"},
    {"weights.workdir", "explain"},
    {"weights.__main__"},
    {"steps"},
    {"training"},
    {"train", "evaluate", "predict"},
    {"main", "examine", "export"},
    {"cli"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def room_of(name: str) -> str:
    """The room of a module, `name` counted from the package: its folder or file."""
    room, *below = name.split(".")
    inner = f"{room}.{below[0]}" if below else room
    return inner if inner in FLOOR else room


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


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
        room_of(name.removeprefix("sdfl_jax."))
        for name in imported_modules(path)
        if name.startswith("sdfl_jax.") and name != "sdfl_jax.__version__"
    }


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    if path == PACKAGE / "__init__.py":
        assert not imported_rooms(path)
        return
    room = room_of(module_of(path))
    upward = {
        other for other in imported_rooms(path) - {room} if FLOOR[other] >= FLOOR[room]
    }
    assert not upward, f"{room} imports {upward}, which stand beside or above it"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_networks_rooms_know_flax_modules(path):
    if any(name.startswith("flax.linen") for name in imported_modules(path)):
        assert room_of(module_of(path)) in ("models", "steps", "state")


def test_no_two_files_have_one_name():
    names = Counter(path.name for path in FILES)
    twice = {name for name, count in names.items() if count > 1}
    assert twice <= {"__init__.py", "__main__.py"}


@pytest.mark.parametrize(
    ("what", "where"),
    [
        ("cv2.VideoCapture(", {"data/videos.py"}),
        ("os.replace(", {"files.py"}),
        ("pebble.ProcessPool(", {"data/workers.py", "examine/isolation.py"}),
        ("def init_variables(", {"models/__init__.py"}),
        ("mallopt", {"devices/memory.py"}),
    ],
)
def test_what_is_written_once_stands_once(what, where):
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in FILES
        if what in path.read_text()
    }
    assert found == where


def test_each_encoder_s_file_owns_its_names():
    encoders = {path.stem for path in (PACKAGE / "models" / "encoders").glob("*.py")}
    encoders -= {"__init__", "base"}
    assert len(encoders) > 5
    for path in (PACKAGE / "weights").glob("*.py"):
        words = set(re.findall(r"\b\w+\b", path.read_text()))
        assert not words & encoders, path


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        # Each takes as long to load as a small photograph's answer.
        ("predict.predictor", "grain orbax matplotlib jpeglib scipy"),
        ("examine.case", "jax grain matplotlib jpeglib"),  # in each of its workers
    ],
)
def test_a_photograph_waits_for_no_library_that_it_does_not_need(module, heavy):
    code = (
        f"import sys, sdfl_jax.{module};"
        f"print(*set({heavy.split()}) & sys.modules.keys())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout.strip()) == (0, ""), run.stderr


def test_data_starts_no_device():
    code = (
        "import sys, sdfl_jax.data.pipeline, sdfl_jax.data.eval_sources;"
        "import sdfl_jax.data.build.__main__, sdfl_jax.data.forge.__main__;"
        "import sdfl_jax.data.audit.__main__, sdfl_jax.data.explore.__main__;"
        "import sdfl_jax.data.layouts.__main__;"
        "import sdfl_jax.data.tfds_builder.sdfl_dataset_builder;"
        "import sdfl_jax.data.explore.explorer;"
        "jax = sys.modules.get('jax');"
        "from jax._src import xla_bridge as x;"
        "sys.exit(bool(jax) and x.backends_are_initialized())"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_nothing_imports_tensorflow_or_torch():
    for path in FILES:
        roots = {name.split(".")[0] for name in imported_modules(path)}
        assert not roots & {"tensorflow", "torch"}, path


# The config stops here: below, functions take plain arguments.
READS_CONFIG = {
    "main",
    "train",
    "training.dry_run",
    "training.experiment",
    "evaluate.scorers",  # its losses are those that the network was trained with
    "weights.__main__",  # it makes a working directory for weights from elsewhere
    "weights.workdir",
}


def test_the_config_stops_at_the_training_and_what_scores_it():
    importing = {
        module_of(path)
        for path in FILES
        if any(name.startswith("sdfl_jax.config.") for name in imported_modules(path))
        or "sdfl_jax.config" in imported_modules(path)
    }
    assert importing <= READS_CONFIG, importing - READS_CONFIG
