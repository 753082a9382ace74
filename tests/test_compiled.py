"""Programs and traces that are kept between runs: what comes back, and when not."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from sdfl_jax import models
from sdfl_jax.checkpoints import checkpoint
from sdfl_jax.devices import compiled, sharding
from sdfl_jax.steps import make_evaluate_step
from tests import tiny

LOSS = dict(weights={"mask": 0.16, "label": 0.04, "edge": 0.0}, mask_losses=("dice",))


@pytest.fixture
def no_cache():
    names = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = {name: getattr(jax.config, name) for name in names}
    kept = compiled._kept
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compiled._kept = kept


def test_programs_are_kept_where_caches_belong(no_cache, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiled.keep()
    folder = tmp_path / "sdfl_jax" / "compiled"
    assert folder.is_dir() and jax.config.jax_compilation_cache_dir == str(folder)


def test_a_folder_of_ones_own_stays_and_an_impossible_one_is_done_without(
    no_cache, tmp_path, monkeypatch
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    compiled.keep()
    assert jax.config.jax_compilation_cache_dir is None
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    compiled.keep()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "_kept", tmp_path)
    return tmp_path / "traces"


class Counted:
    """Gives what it holds, and counts how often it was asked."""

    def __init__(self, given: bytes = b"made"):
        self.given, self.times = given, 0

    def __call__(self) -> bytes:
        self.times += 1
        return self.given


def test_what_was_made_is_remembered(kept):
    make = Counted()
    for _ in range(3):
        assert compiled.remembered("a", make) == b"made"
    assert make.times == 1 and len(list(kept.iterdir())) == 1


@pytest.mark.parametrize("what", ["about", "code", "setting", "damage"])
def test_it_is_made_anew_where_anything_differs(kept, monkeypatch, what):
    make, about = Counted(), "a"
    compiled.remembered(about, make)
    if what == "about":
        about = "b"
    if what == "code":
        monkeypatch.setattr(compiled, "_sources", lambda: "other")
    if what == "setting":
        settings = jax.config.values | {"jax_enable_x64": True}
        monkeypatch.setattr(type(jax.config), "values", settings)
    if what == "damage":
        (file,) = kept.iterdir()
        file.write_bytes(file.read_bytes()[:-1])
    for _ in range(2):
        assert compiled.remembered(about, make) == b"made"
        assert make.times == 2


def test_what_is_not_known_whole_is_not_remembered(kept):
    make = Counted()
    for _ in range(2):
        compiled.remembered(None, make)
    assert make.times == 2 and not kept.exists()


def test_networks_have_an_identity_unless_a_part_is_from_elsewhere():
    starter = lambda **settings: models.identity(models.build("starter", **settings))
    assert starter() and starter() == starter() != starter(width=8)
    adapters = {"patterns": ("encoder/*",)}
    adapted = [models.build(name, lora=adapters) for name in ("segformer", "mvssnet")]
    assert len({models.identity(network) for network in adapted} - {None}) == 2
    for other in (
        tiny.OfCoefficients(),
        models.build("upernet", encoder="tiny"),
        nn.Dense(3, bias_init=lambda *given: None),
        object(),
    ):
        assert models.identity(other) is None


@pytest.mark.parametrize("devices", [1, 8])
def test_a_kept_trace_answers_as_the_network_does(kept, monkeypatch, devices):
    model = models.build("starter", width=8)
    variables = jax.jit(lambda rng: models.init_variables(model, 64, rng))(
        jax.random.key(0)
    )
    mesh = sharding.make_mesh(devices=jax.devices()[:devices])
    rng = np.random.default_rng(0)
    arrays = {
        "image": rng.integers(0, 256, (8, 64, 64, 3), np.uint8),
        "mask": rng.integers(0, 2, (8, 64, 64, 1), np.uint8) * 255,
        "label": np.ones(8, np.float32),
        "has_mask": np.ones(8, np.float32),
        "valid": np.ones(8, bool),
        "extent": np.tile(np.int32([[32, 64]]), (8, 1)),
    }

    def answered():
        step = make_evaluate_step(model, mesh, one_by_one=True, **LOSS)
        return jax.tree.map(np.asarray, step(variables, arrays))

    traced = []
    of_class = type(model).__call__
    monkeypatch.setattr(
        type(model),
        "__call__",
        lambda *given, **more: traced.append(1) or of_class(*given, **more),
    )
    first = answered()
    assert traced and len(list(kept.iterdir())) == 1
    del traced[:]
    again = answered()
    assert not traced
    monkeypatch.setattr(compiled, "_kept", None)
    plain = answered()
    assert traced
    for other in (again, plain):
        assert jax.tree.all(jax.tree.map(np.array_equal, first, other))


def test_a_network_that_ships_is_loaded_without_a_trace(kept, monkeypatch):
    wanted = checkpoint.load("starter").variables
    monkeypatch.setattr(models, "init_variables", None)
    found = checkpoint.load("starter").variables
    assert jax.tree.all(jax.tree.map(np.array_equal, wanted, found))


def test_a_mistake_in_a_network_is_still_told(kept):
    model = models.build("starter", width=8)
    step = make_evaluate_step(model, sharding.data_mesh(jax.devices()[:1]))
    with pytest.raises(Exception, match="params"):
        step({"params": {}}, {"image": np.zeros((1, 64, 64, 3), np.uint8)})
    assert not kept.exists()


def test_a_trace_that_cannot_be_written_costs_only_the_time(kept, monkeypatch):
    def refuses(*given, **more):
        raise ImportError("no flatbuffers")

    monkeypatch.setattr(jax.export, "export", refuses)
    double = compiled.traced_once(jax.jit(lambda x: 2 * x), "double")
    assert double(jax.numpy.ones(3)).tolist() == [2, 2, 2]
    assert not kept.exists()
