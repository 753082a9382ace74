"""The evaluators of the PyPI package `imdlbenco`: where they agree, where they do not.

With PyTorch and `pip install --no-deps imdlbenco` (0.1.45) the package itself is asked;
the numbers that it gave stand here as well, so that the differences are documented
without it.
"""

import importlib
import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from sdfl_jax import metrics

# Masks, maps and what imdlbenco 0.1.45 makes of them: F1, IoU, AUC of the pixels.
HALF = [[0, 0, 1, 1]]
CASES = {
    "ordered": (HALF, [[0.1, 0.6, 0.4, 0.9]], (0.5, 1 / 3, 0.75)),
    "one pixel": ([[0, 0, 0, 1]], [[0.2, 0.9, 0.3, 0.8]], (2 / 3, 0.5, 2 / 3)),
    "all manipulated but one": (
        [[0, 1, 1, 1]],
        [[0.1, 0.9, 0.2, 0.7]],
        (0.8, 2 / 3, 1),
    ),
    # It takes tied pixels in the order of the file: half right is 1 or 0, not 0.5.
    "constant": (HALF, [[0.7, 0.7, 0.7, 0.7]], (2 / 3, 0.5, 0.0)),
    "constant, mirrored": ([[1, 1, 0, 0]], [[0.7, 0.7, 0.7, 0.7]], (2 / 3, 0.5, 1.0)),
    # It gives 0 where mask and map are both empty, and an AUC where there is none.
    "empty": ([[0, 0, 0, 0]], [[0.1, 0.2, 0.3, 0.4]], (0.0, 0.0, 0.0)),
    # It calls what is above 0.5, the field's other tools what is at least 0.5.
    "at the threshold": (HALF, [[0.1, 0.2, 0.5, 0.6]], (2 / 3, 0.5, 1.0)),
}
AGREED = ("ordered", "one pixel", "all manipulated but one")


def ours(mask, probs):
    table = metrics.histogram(np.array(mask, bool), np.array(probs))
    found = metrics.per_image(table[None])
    return tuple(found[f"pixel_{name}"][0] for name in ("f1", "iou", "auc"))


@pytest.mark.parametrize("name", AGREED)
def test_single_images_without_ties_score_alike(name):
    mask, probs, theirs = CASES[name]
    assert ours(mask, probs) == pytest.approx(theirs, abs=1e-6)


def test_ties_empty_masks_and_the_threshold_itself_score_otherwise():
    for name in ("constant", "constant, mirrored"):
        mask, probs, theirs = CASES[name]
        assert ours(mask, probs)[:2] == pytest.approx(theirs[:2])
        assert ours(mask, probs)[2] == 0.5
    mask, probs, _ = CASES["empty"]
    assert np.isnan(ours(mask, probs)).all()  # the empty-mask policy decides
    for policy, value in (("one", 1.0), ("zero", 0.0), ("skip", None)):
        found = metrics.report(
            [np.array(mask, bool)], [np.array(probs)], [0], [0.0], empty_mask=policy
        )
        assert found["standard"]["pixel_f1_all"] == value
    mask, probs, _ = CASES["at the threshold"]
    assert ours(mask, probs) == (1, 1, 1)


@pytest.fixture(scope="module")
def package():
    """Its evaluators alone: the package itself imports all of its networks."""
    torch = pytest.importorskip("torch")
    spec = importlib.util.find_spec("IMDLBenCo")
    if spec is None:
        pytest.skip("imdlbenco is not installed")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("IMDLBenCo", "IMDLBenCo.evaluation"):
            shell = types.ModuleType(name)
            folder = Path(spec.origin).parent.joinpath(*name.split(".")[1:])
            shell.__path__ = [str(folder)]
            patch.setitem(sys.modules, name, shell)
        parts = {
            name: importlib.import_module(f"IMDLBenCo.evaluation.{name}")
            for name in ("F1", "IOU", "AUC", "Accuracy")
        }
        yield torch, types.SimpleNamespace(**parts)


def pixels_by(package, mask, probs, mode="origin"):
    torch, theirs = package
    planes = [torch.tensor(np.asarray(a, np.float32)) for a in (probs, mask)]
    planes = [plane.reshape(1, 1, *plane.shape) for plane in planes]
    evaluators = (
        theirs.F1.PixelF1(mode=mode),
        theirs.IOU.PixelIOU(mode=mode),
        theirs.AUC.PixelAUC(mode=mode),
    )
    return [float(evaluator.batch_update(*planes)[0]) for evaluator in evaluators]


@pytest.mark.parametrize("name", CASES)
def test_the_numbers_above_are_its_own(package, name):
    mask, probs, expected = CASES[name]
    assert pixels_by(package, mask, probs) == pytest.approx(expected, abs=1e-6)


def test_its_pixel_figures_are_ours_on_maps_without_ties(package):
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random((12, 16)) < 0.3
        level = rng.permutation(256)[: 12 * 16].reshape(12, 16).astype(np.uint8)
        found = pixels_by(package, mask, level / 255)
        assert found == pytest.approx(ours(mask, level / 255), abs=1e-5)
        permuted = metrics.report([mask], [level], [1], [1.0], permute=True)
        double = pixels_by(package, mask, level / 255, mode="double")[0]
        expected = permuted["standard"]["pixel_f1_permuted_manipulated"]
        assert double == pytest.approx(expected, abs=1e-5)


def test_its_image_figures_are_ours(package):
    torch, theirs = package
    rng = np.random.default_rng(0)
    label, score = rng.integers(0, 2, 50), rng.random(50).astype(np.float32)
    blank = np.zeros((50, 1, 1), np.uint8)
    found = metrics.report(blank, blank, label, score)["standard"]
    for key, evaluator in {
        "image_f1": theirs.F1.ImageF1(),
        "image_auc": theirs.AUC.ImageAUC(),
        "image_accuracy": theirs.Accuracy.ImageAccuracy(),
    }.items():
        evaluator.remain_update(torch.tensor(score), torch.tensor(label))
        assert float(evaluator.epoch_update()) == pytest.approx(found[key], abs=1e-6)
