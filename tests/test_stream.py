"""Forgeries that a run makes for itself: the same for every run, and no hint beside."""

import csv
import io
import pickle

import cv2
import numpy as np
import pytest
from PIL import Image, JpegPresets
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sdfl_jax.data import photographs
from sdfl_jax.data.forge import held_out, stream
from sdfl_jax.data.forge.stream import Stream, folders, train_batches
from sdfl_jax.errors import InputError

SIDE = 64


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    photographs.export(folder)
    return folder


@pytest.fixture(scope="module")
def text(photos):
    return f"forge:{photos}/train:3,{photos}/test"


@pytest.fixture(scope="module")
def examples(text):
    forge = Stream(text, size=SIDE, seed=3)
    return [forge(i) for i in range(400)]


def same(a: dict, b: dict) -> bool:
    return all(np.array_equal(a[name], b[name]) for name in ("image", "mask", "label"))


def test_an_example_is_a_function_of_seed_and_position(text, examples):
    other = pickle.loads(pickle.dumps(Stream(text, size=SIDE, seed=3)))
    assert all(same(other(i), examples[i]) for i in (7, 90, 3, 7))
    assert not same(Stream(text, size=SIDE, seed=4)(7), examples[7])


def test_no_example_comes_twice(examples):
    assert len({example["image"].tobytes() for example in examples}) == len(examples)


def test_masks_and_labels_agree(examples):
    for example in examples:
        assert example["image"].shape == (SIDE, SIDE, 3)
        assert set(np.unique(example["mask"])) <= {0, 255}
        assert example["label"] == example["mask"].any()
        assert example["label"] == 0 or example["kind"] != "authentic"


def test_kinds_come_in_their_shares(examples):
    kinds = [example["kind"] for example in examples]
    for kind, share in stream.KINDS.items():
        margin = 4 * (share * (1 - share) / len(kinds)) ** 0.5
        assert abs(kinds.count(kind) / len(kinds) - share) < margin, kind


@pytest.mark.parametrize("kind", [kind for kind in stream.KINDS if kind != "authentic"])
def test_a_kind_changes_what_its_mask_says(kind, text):
    forge = Stream(text, size=96, seed=5)
    inside, outside = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        host = forge._draw(rng)
        canvas, view = forge._canvas(host, rng)
        try:
            forger = stream._Forger(forge, host, view, rng)
            image, region = getattr(forger, kind)(canvas.copy())
        except stream.Unsuitable:
            continue
        if not region.any():
            continue
        change = cv2.absdiff(image, canvas).mean(-1)
        away = cv2.dilate(region, np.ones((31, 31), np.uint8)) == 0
        inside.append(change[region > 0].mean())
        outside.append(change[away].max(initial=0))
    assert len(inside) > 20
    assert np.median(inside) > stream.MIN_CHANGE
    # Soft edges end within a few pixels; a thin object under one may leave no mask.
    assert np.mean(np.array(outside) == 0) > 0.9


def test_what_repeats_is_filled_with_itself():
    tile = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    canvas = np.tile(tile, (6, 6, 1))
    mask = np.zeros(canvas.shape[:2], np.uint8)
    mask[50:60, 70:84] = 255
    damaged = canvas.copy()
    damaged[mask > 0] = 0
    filled = stream._patched(damaged, mask)
    core = cv2.erode(mask, np.ones((5, 5), np.uint8)) > 0
    assert np.abs(filled.astype(int) - canvas)[core].mean() < 4
    away = cv2.dilate(mask, np.ones((15, 15), np.uint8)) == 0
    np.testing.assert_array_equal(filled[away], damaged[away])


def test_a_matte_follows_the_hairs_that_a_mask_cuts_across():
    hair = np.zeros((64, 64), np.uint8)
    hair[24:40, 24:40] = 255  # a body, and hairs that stand out from it
    hair[26:40:3, 40:46] = 255
    content = np.repeat(40 + (hair > 0)[..., None] * np.uint8(160), 3, axis=-1)
    rough = cv2.dilate((hair > 0) * np.uint8(255), np.ones((5, 5), np.uint8))
    error = lambda alpha: np.abs(alpha - hair / 255).mean()
    matte = stream._matte(content, rough, 4)
    assert 0 <= matte.min() and matte.max() <= 1
    assert error(matte) < 0.8 * min(error(rough / 255), error(stream._soft(rough, 1.0)))


def test_a_subject_in_focus_stays_and_noise_is_everywhere(text):
    forge, changed = Stream(text, size=96, seed=5), 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        host = forge._draw(rng)
        canvas, view = forge._canvas(host, rng)
        image = stream._Forger(forge, host, view, rng).focused(canvas)
        assert image.shape == canvas.shape and image.dtype == np.uint8
        changed += not np.array_equal(image, canvas)
        detail = lambda x: cv2.Laplacian(
            cv2.cvtColor(x, cv2.COLOR_RGB2GRAY), cv2.CV_64F
        )
        blocks = np.abs(detail(image)).reshape(-1, 8, image.shape[1] // 8, 8)
        if not np.array_equal(image, canvas):  # no spot without the sensor's noise
            dark = image.reshape(-1, 8, image.shape[1] // 8, 8, 3).mean((1, 3, 4)) < 5
            assert (blocks.mean((1, 3))[~dark] > 0).all()
    assert changed > 10


def test_other_colours_keep_what_is_where(text):
    forge, kept = Stream(text, size=96, seed=5), []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        canvas, _ = forge._canvas(forge._draw(rng), rng)
        graded = stream._graded(canvas, rng)
        assert graded.dtype == np.uint8 and not np.array_equal(graded, canvas)
        grey = [cv2.cvtColor(x, cv2.COLOR_RGB2GRAY).ravel() for x in (canvas, graded)]
        kept.append(np.corrcoef(*grey)[0, 1])
    assert np.median(kept) > 0.9


@pytest.mark.parametrize("quality", [50, 75, 95, 100])
def test_editors_tables_are_those_of_photoshop(quality, photos):
    image = cv2.imread(str(next(photos.glob("*/*"))))[:64, :64]
    data = stream._saved_by_an_editor(image, quality).tobytes()
    found = {tuple(t) for t in Image.open(io.BytesIO(data)).quantization.values()}
    theirs = [preset["quantization"] for preset in JpegPresets.presets.values()]
    assert found in [{tuple(table) for table in tables} for tables in theirs]


def test_resumed_batches_are_those_of_the_whole_run(text):
    settings = dict(batch_size=4, image_size=SIDE, seed=1)
    whole = train_batches(text, **settings)
    expected = [next(whole) for _ in range(5)]
    resumed = next(train_batches(text, **settings, start_step=4))
    parts = [
        next(train_batches(text, **settings, start_step=4, process=i, processes=2))
        for i in (0, 1)
    ]
    in_workers = next(train_batches(text, **settings, start_step=4, workers=1))
    for name, array in expected[4].items():
        np.testing.assert_array_equal(array, resumed[name])
        np.testing.assert_array_equal(array, in_workers[name])
        joined = np.concatenate([part[name] for part in parts])
        np.testing.assert_array_equal(array, joined)


def test_no_photograph_is_in_both_splits(tmp_path):
    for i in range(60):
        (tmp_path / f"{i}.png").touch()
    sides = [set(folders(f"forge:{tmp_path}", s)[0].names) for s in ("train", "val")]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 60
    assert 1 <= len(sides[1]) <= 15


def global_statistics(image: np.ndarray) -> list[float]:
    """What can be known of an image without looking for a region."""
    luminance = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64)
    steps = np.abs(np.diff(luminance, axis=1)).mean(0)
    borders = np.arange(len(steps)) % 8 == 7
    return [
        luminance.mean(),
        luminance.std(),
        steps.mean(),
        np.log(cv2.Laplacian(luminance, cv2.CV_64F).var() + 1),
        steps[borders].mean() / (steps[~borders].mean() + 1e-3),
        cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[..., 1].mean(),
        len(cv2.imencode(".png", image)[1]) / luminance.size,
    ]


def test_what_is_kept_aside_holds_photographs_as_the_web_spreads_them(text, tmp_path):
    out = tmp_path / "held_out"
    held_out.main([f"--photos={text}", f"--out={out}", "--count=3", "--size=64x64"])
    with (out / "photographs.csv").open() as file:
        rows = list(csv.DictReader(file))
    aside = [name for folder in folders(text, "val") for name in folder.names]
    assert len(rows) == 3 * len(aside)
    assert {row["label"] for row in rows} == {"0"}
    for i in range(0, len(rows), 3):
        whole, *spread = rows[i : i + 3]
        side = max(cv2.imread(whole["image"]).shape)
        for row in spread:
            assert row["group"] == whole["group"]
            image = (out / row["image"]).read_bytes()
            assert image.startswith(b"\xff\xd8")
            assert max(cv2.imread(str(out / row["image"])).shape) <= min(side, 1024)


def test_global_statistics_do_not_tell_the_label(examples):
    x = np.array([global_statistics(example["image"]) for example in examples])
    y = np.array([example["label"] for example in examples])
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    score = cross_val_predict(classifier, x, y, cv=5, method="predict_proba")[:, 1]
    assert roc_auc_score(y, score) < 0.6


@pytest.mark.parametrize(
    "given, told",
    [
        ("forge:nowhere", "no folder of photographs at nowhere"),
        ("forge:{photos}:0", "a weight is a number above 0"),
        ("forge:{empty}", "holds no photographs"),
    ],
)
def test_bad_settings_are_named(given, told, photos, tmp_path):
    with pytest.raises(InputError, match=told):
        folders(given.format(photos=photos, empty=tmp_path))
