"""Golden files, and weights that follow from their names alone."""

import json
import pathlib
import zlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent / "golden"


def load(name: str) -> tuple[dict, dict]:
    """The arrays of `name`.npz, and what `name`.json says (empty without one)."""
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    path = FOLDER / f"{name}.json"
    return arrays, json.loads(path.read_text()) if path.exists() else {}


def state_dict(about: dict) -> dict[str, np.ndarray]:
    """The weights of `about["params"]` by the rule in golden/README.md."""
    rule = {"gain": 2.0, "bn": (0.6, 1.2), "bn3": (0.2, 0.5)} | (
        about.get("rule") or {}
    )
    return {name: _by_rule(name, shape, rule) for name, shape in about["params"]}


def _by_rule(name: str, shape: list[int], rule: dict) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.rsplit(".", 1)[-1] in ("gamma", "gamma_1", "gamma_2"):  # layer scale
        a = rng.uniform(*rule["gamma"], shape)
    elif name.endswith("running_mean"):
        a = rng.normal(0, 0.1, shape)
    elif name.endswith("running_var"):
        a = rng.uniform(0.5, 1.5, shape)
    elif len(shape) == 4:
        a = rng.normal(0, np.sqrt(rule["gain"] / np.prod(shape[1:])), shape)
    elif "bayar" in name or "constrain_conv" in name:
        a = rng.uniform(0.1, 1, shape)
    elif len(shape) == 2:
        a = rng.normal(0, np.sqrt(1 / shape[1]), shape)
    elif name.endswith("weight"):  # batch norm scale
        last = "bn3." in name and "layer" in name
        a = rng.uniform(*rule["bn3" if last else "bn"], shape)
    elif name.endswith(("alpha", "beta")):
        a = rng.uniform(0.5, 1, shape)
    else:
        a = rng.normal(0, 0.1, shape)
    return a.astype(np.float32)


def assert_close(actual, golden, tolerance: float, what: str = ""):
    """Compares relative to the largest absolute golden value."""
    actual, golden = np.asarray(actual), np.asarray(golden)
    assert actual.shape == golden.shape, (what, actual.shape, golden.shape)
    error = np.max(np.abs(actual - golden)) / np.max(np.abs(golden))
    assert error <= tolerance, f"{what}: {error:.2e} > {tolerance:.0e}"
