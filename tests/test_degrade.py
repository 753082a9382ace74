"""Degradations: by the stated amount, the same each time, masks under their images."""

import cv2
import numpy as np
import pytest

from sdfl_jax.data import eval_sources
from sdfl_jax.data.batches import eval_batches
from sdfl_jax.data.build import __main__ as build_command
from sdfl_jax.data.degrade import STRENGTHS, Degradation
from sdfl_jax.data.records import RecordSource
from sdfl_jax.errors import InputError
from tests import tiny


def example(height=96, width=128, name="a.png", **changes) -> dict:
    """A smooth image; its red channel is 255 where the mask is."""
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (12, 16, 3), np.uint8), (width, height))
    mask = np.zeros((height, width, 1), np.uint8)
    mask[height // 4 : height // 2, width // 4 : width // 2] = 255
    image[..., 0] = mask[..., 0]
    known = {"name": name, "label": 1, "has_mask": True, "kind": "splice"}
    size = {"height": height, "width": width, "original_mask": mask[..., 0]}
    return {"image": image, "mask": mask} | known | size | changes


def change(kind, strength, **changes) -> np.ndarray:
    before = example(**changes)
    return np.float64(Degradation(kind, strength)(before)["image"]) - before["image"]


@pytest.mark.parametrize("kind", STRENGTHS)
def test_every_level_gives_a_whole_example_and_leaves_the_old_one(kind):
    before = example()
    kept = {name: np.copy(value) for name, value in before.items()}
    for strength in STRENGTHS[kind][1]:
        after = Degradation(kind, strength)(before)
        assert after.keys() == before.keys()
        size = (after["height"], after["width"])
        assert after["image"].shape == (*size, 3) and after["image"].dtype == np.uint8
        assert after["mask"].shape == (*size, 1)
        np.testing.assert_array_equal(after["original_mask"], after["mask"][..., 0])
        assert set(np.unique(after["mask"])) <= {0, 255}
        again = Degradation(kind, strength)(example())
        np.testing.assert_array_equal(after["image"], again["image"])
    for name, value in kept.items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("kind", ["noise", "crop"])
def test_draws_follow_from_the_name(kind):
    strength = STRENGTHS[kind][1][2]
    one, other = (
        Degradation(kind, strength)(example(name=name))["image"] for name in ("a", "b")
    )
    assert not np.array_equal(one, other)


def test_strengths_are_in_their_units():
    noise = change("noise", 7, image=np.full((96, 128, 3), 128, np.uint8))
    assert noise.std() == pytest.approx(7, rel=0.02)
    assert noise.mean() == pytest.approx(0, abs=0.1)
    halved = Degradation("resize", 0.5)(example())
    assert (halved["height"], halved["width"]) == (48, 64)
    kept = Degradation("crop", 0.8)(example())
    assert (kept["height"], kept["width"]) == (77, 102)
    point = np.zeros((96, 128, 3), np.uint8)
    point[48, 64] = 255
    spread = np.argwhere(Degradation("blur", 7)(example(image=point))["image"][..., 0])
    assert (np.ptp(spread, axis=0) < 7).all() and len(spread) > 9
    large = Degradation("social", 2)(example(1200, 1600))
    assert (large["height"], large["width"]) == (810, 1080)


@pytest.mark.parametrize("kind", ["jpeg", "blur", "noise", "social"])
def test_later_strengths_change_more(kind):
    sizes = [np.abs(change(kind, strength)).mean() for strength in STRENGTHS[kind][1]]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


@pytest.mark.parametrize("kind", ["crop", "resize"])
def test_masks_stay_under_their_images(kind):
    for strength in STRENGTHS[kind][1]:
        after = Degradation(kind, strength)(example())
        wrong = (after["image"][..., 0] >= 128) != (after["mask"][..., 0] >= 128)
        assert wrong.mean() < 0.02 and (kind == "resize" or not wrong.any())


def test_the_label_follows_what_a_crop_leaves():
    mask = np.zeros((96, 128, 1), np.uint8)
    mask[0, 0] = 255
    hidden = {"mask": mask, "original_mask": mask[..., 0]}
    assert Degradation("crop", 0.5)(example(**hidden))["label"] == 0
    unknown = example(has_mask=False, **hidden)
    assert Degradation("crop", 0.5)(unknown)["label"] == 1
    assert Degradation("jpeg", 50)(example(**hidden))["label"] == 1


def test_what_cannot_be_degraded_is_told(tmp_path):
    with pytest.raises(InputError, match="did you mean 'jpeg'"):
        Degradation("jpg", 50)
    folder = tiny.write_shards(tmp_path, 2, sizes=((40, 48),), storage="resized")
    stored = eval_sources.Prepared(RecordSource(folder), change=Degradation("jpeg", 50))
    with pytest.raises(InputError, match="0.png: stored resized"):
        stored[0]


@pytest.mark.slow
def test_worker_processes_degrade_alike(tmp_path):
    paths = tiny.write_images(tmp_path / "images", 4, sizes=((40, 48),))
    build_command.main(
        [f"--paths_file={paths}", f"--out={tmp_path / 'out'}", "--workers=1"]
    )
    found = []
    for workers in (0, 2):
        noisy = eval_sources.Prepared(
            RecordSource(str(tmp_path / "out")), change=Degradation("noise", 9)
        )
        batches = eval_batches(
            noisy, batch_size=4, image_size=32, geometry="resize", workers=workers
        )
        found.append(np.concatenate([batch.arrays["image"] for batch in batches]))
    np.testing.assert_array_equal(*found)
