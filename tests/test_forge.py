"""Forgeries: exact masks, no hint but the manipulation, the same bytes every time."""

import csv
import hashlib
import importlib.util
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sdfl_jax.data import photographs
from sdfl_jax.data.forge import __main__ as forge_command
from sdfl_jax.data.forge import dataset, forger, regions, swaps
from sdfl_jax.data.forge.dataset import forge
from sdfl_jax.data.forge.edits import EDITS
from sdfl_jax.data.forge.manipulate import KINDS, Kind
from sdfl_jax.data.forge.objects import SOURCES
from sdfl_jax.data.forge.paste import Unsuitable
from sdfl_jax.data.forge.photo_folder import (
    find_photographs,
    split_photographs,
)
from sdfl_jax.data.forge.regions import bounding_box, random_region
from sdfl_jax.data.images import read_image, read_labels
from sdfl_jax.data.lists import SPLITS
from sdfl_jax.data.workers import WorkersDie
from sdfl_jax.errors import InputError
from sdfl_jax.files import locked_output


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    photographs.export(folder)
    return folder


@pytest.fixture(scope="module")
def forged(photos, tmp_path_factory):
    """600 forgeries to train on and 100 for each other split."""
    out = tmp_path_factory.mktemp("forged") / "out"
    numbers = dict(count=600, count_val=100, count_test=100)
    forge(photos, out, **numbers, seed=3, workers=0, progress=False)
    return out


def rows_of(out: Path, split: str) -> list[dict]:
    with open(out / f"paths_{split}.csv", newline="") as file:
        return list(csv.DictReader(file))


def mask_of(out: Path, row: dict) -> np.ndarray:
    return np.asarray(Image.open(out / row["mask"]))


def every_byte(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha1(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def small(photos, out, **settings):
    """A quick run: 32 pixels, a dozen images."""
    numbers = dict(count=8, count_val=2, count_test=2, size=32, workers=0)
    return forge(photos, out, **(numbers | settings), progress=False)


# --- photographs


def test_exported_photographs_are_those_in_the_wheels(photos):
    folder = importlib.util.find_spec("skimage").submodule_search_locations[0]
    coffee = np.asarray(Image.open(Path(folder, "data/coffee.png")))
    np.testing.assert_array_equal(read_image(photos / "test/coffee.png"), coffee)
    assert {path.stem for path in (photos / "test").iterdir()} == {
        *("astronaut", "coffee", "flower", "rocket")
    }


def test_second_export_writes_nothing(photos):
    before = {path: path.stat().st_mtime_ns for path in photos.rglob("*.png")}
    assert photographs.export(photos) == {"train": 12, "val": 2, "test": 4}
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_export_keeps_away_from_other_files(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(InputError, match="holiday.jpg"):
        photographs.export(tmp_path)


def test_folder_leaves_out_what_is_no_photograph(tmp_path, rng):
    noise = rng.integers(0, 256, (40, 50, 3), np.uint8)
    for name in ("street__left.png", "street__right.png", "lane.png"):
        noise[0, 0] += 1
        Image.fromarray(noise).save(tmp_path / name)
    Image.fromarray(noise).save(tmp_path / "lane copy.png")
    Image.fromarray(noise[:20]).save(tmp_path / "small.png")
    labels = np.repeat(np.arange(5, dtype=np.uint8), 10)[None].repeat(40, 0)
    Image.fromarray(labels).save(tmp_path / "labels.png")
    (tmp_path / "text.png").write_text("no picture")
    Image.fromarray(noise[::-1]).save(tmp_path / "picture.gif")
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "whole.jpg").unlink()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])

    found, left_out = find_photographs(tmp_path, size=32, progress=False)
    assert {photo.group for photo in found} == {"street", "lane copy", "picture"}
    reasons = {name: reason.split(":")[0] for name, reason in left_out}
    assert reasons == {
        "lane.png": "the same bytes as lane copy.png",
        "small.png": "smaller than 32 pixels",
        "labels.png": "flat areas",
        "text.png": "unreadable",
        "cut.jpg": "unreadable",
    }


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_folder_without_folders_is_dealt_by_scene(tmp_path, rng):
    for i in range(20):
        for side in ("a", "b"):
            noise = rng.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(noise).save(tmp_path / f"{i:02d}__{side}.png")
    found, _ = find_photographs(tmp_path, size=16, progress=False)
    sides = split_photographs(found, rng)
    assert {name: len(side) for name, side in sides.items()} == {
        "train": 32,
        "val": 4,
        "test": 4,
    }
    groups = [{photo.group for photo in side} for side in sides.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 20


# --- regions and manipulations


def test_regions_have_the_wanted_area_anywhere_in_the_frame(rng):
    regions = np.stack([random_region(48, 64, rng)[0] for _ in range(400)]) > 0
    area = regions.mean((1, 2))
    assert area.min() > 0.02 and area.max() < 0.45
    assert 0.13 < area.mean() < 0.17
    y, x = np.mgrid[:48, :64]
    centred = -np.hypot((y - 23.5) / 48, (x - 31.5) / 64).ravel()
    prior = [roc_auc_score(region.ravel(), centred) for region in regions]
    assert np.mean(prior) < 0.59


@pytest.mark.parametrize("kind", KINDS)
def test_manipulation_changes_its_region_and_nothing_else(kind, rng):
    host = cv2.GaussianBlur(rng.integers(0, 256, (60, 80, 3), np.uint8), (5, 5), 0)
    other = 255 - host
    done = 0
    while done < 20:
        region, _ = random_region(60, 80, rng)
        before = host.copy()
        try:
            image, parameters = KINDS[kind].manipulate(
                host, region, lambda h, w: other[:h, :w], rng
            )
        except Unsuitable:
            continue
        done += 1
        np.testing.assert_array_equal(host, before)
        np.testing.assert_array_equal(image[region == 0], host[region == 0])
        assert (image != host).any(-1)[region > 0].mean() > 0.5
        assert json.loads(json.dumps(parameters)) == parameters


@pytest.mark.parametrize("method", EDITS)
def test_edit_changes_a_piece_and_keeps_grey_grey(method, rng):
    colours = cv2.GaussianBlur(rng.integers(0, 256, (60, 80, 3), np.uint8), (3, 3), 0)
    grey = np.repeat(colours[..., :1], 3, -1)
    for piece in (colours, grey):
        for _ in range(5):
            edited, parameters = EDITS[method](piece, rng)
            assert edited.shape == piece.shape and edited.dtype == np.uint8
            assert (edited != piece).mean() > 0.5
            assert json.loads(json.dumps(parameters)) == parameters
    assert np.ptp(edited.astype(int), -1).max() == 0


def test_colour_transfer_gives_the_content_the_colours_of_the_host(rng):
    shape = (40, 50, 3)
    host, content = (
        np.clip(rng.normal(mean, 12, shape), 0, 255).astype(np.uint8)
        for mean in ((180, 120, 80), (60, 90, 140))
    )
    region = np.full(shape[:2], 255, np.uint8)
    moved = swaps.colour_transfer(content, host, region)
    moved, host = (cv2.cvtColor(p, cv2.COLOR_RGB2LAB) for p in (moved, host))
    np.testing.assert_allclose(moved.mean((0, 1)), host.mean((0, 1)), atol=2)
    np.testing.assert_allclose(moved.std((0, 1)), host.std((0, 1)), rtol=0.25)


def test_poisson_clone_meets_the_host_at_the_edge_and_keeps_the_gradients():
    y, x = np.mgrid[:60, :60]
    host = np.full((60, 60, 3), 90, np.uint8)
    texture = 160 + 30 * np.sin(x / 3)
    content = np.repeat(texture.astype(np.uint8)[..., None], 3, -1)
    region = ((np.hypot(x - 30, y - 30) < 25) * 255).astype(np.uint8)
    before = region.copy()
    cloned = swaps.poisson(content, host, region).astype(float)
    np.testing.assert_array_equal(region, before)
    edge = np.abs(np.hypot(x - 30, y - 30) - 23) < 1
    assert abs(cloned[edge].mean() - 90) < 10  # the content itself is 70 above
    inside = np.hypot(x - 30, y - 30) < 15
    slope, wanted = (
        np.gradient(p[..., 0].astype(float), axis=1) for p in (cloned, content)
    )
    assert np.corrcoef(slope[inside], wanted[inside])[0, 1] > 0.95


class OneDonor:
    """A disk on another ground, with its label map."""

    areas = regions.AREAS

    def __init__(self):
        y, x = np.mgrid[:120, :160]
        self.disk = np.hypot(y - 60, x - 80) < 30
        noise = np.random.default_rng(1).normal(0, 6, (120, 160, 3))
        ground = np.where(self.disk[..., None], (200, 40, 40), (40, 60, 170))
        self.pixels = np.clip(ground + noise, 0, 255).astype(np.uint8)

    def __call__(self, height, width):
        top, left = 60 - height // 2, 80 - width // 2
        return self.pixels[top : top + height, left : left + width]

    def segments(self):
        return self.pixels, self.disk.astype(np.uint8) * 7, {}


def test_regions_are_as_small_as_asked(photos, tmp_path):
    low, high = areas = (0.002, 0.01)
    small(photos, tmp_path / "out", size=200, authentic=0.0, areas=areas, count=24)
    for split in SPLITS:
        for row in rows_of(tmp_path / "out", split):
            share = np.mean(mask_of(tmp_path / "out", row) > 0)
            assert 0.9 * low < share < 1.1 * high, row["kind"]


@pytest.mark.parametrize("source", ["segment", "grabcut"])
def test_cut_out_object_brings_its_pixels_and_not_its_ground(source, rng):
    shares = []
    while len(shares) < 15:
        try:
            region, content, drawn = SOURCES[source](100, 110, OneDonor(), rng)
        except Unsuitable:
            continue
        top, left, height, width = bounding_box(region)
        assert content.shape == (height, width, 3)
        here = region[top : top + height, left : left + width] > 0
        red = content[..., 0] > content[..., 2]
        shares.append(red[here].mean())
        assert drawn["area"] == round((region > 0).mean(), 4)
    assert np.median(shares) > 0.9


def test_plain_copymove_is_an_exact_copy(rng):
    host = rng.integers(0, 256, (60, 80, 3), np.uint8)
    for _ in range(200):
        region, _ = random_region(60, 80, rng)
        try:
            image, drawn = KINDS["copymove"].manipulate(
                host, region, lambda h, w: host, rng
            )
        except Unsuitable:
            continue
        if drawn["scale"] == 1 and drawn["turn"] == 0 and drawn["feather"] == 0:
            break
    dx, dy = map(int, drawn["shift_xy"])
    y, x = np.nonzero(region)
    np.testing.assert_array_equal(image[y, x], host[y + dy, x + dx])


def test_a_kind_is_a_function_and_a_line(photos, tmp_path, monkeypatch):
    def negative(host, region, donor, rng):
        return np.where(region[..., None] > 0, 255 - host, host), {}

    monkeypatch.setitem(KINDS, "negative", Kind(negative))
    made = small(photos, tmp_path / "out", kinds=["negative"])
    assert made["train"] == {"authentic": 2, "negative": 6}


# --- what a run leaves


def test_lists_name_files_that_fit(forged):
    for split, count in (("train", 600), ("val", 100), ("test", 100)):
        rows = rows_of(forged, split)
        assert len(rows) == count
        assert Counter(row["label"] for row in rows)["0"] == 0.3 * count
        for row in rows[:60]:
            image = read_image(forged / row["image"])
            assert image.shape == (128, 128, 3)
            assert (row["kind"] == "") == (row["label"] == "0")
            if row["label"] == "1":
                mask = mask_of(forged, row)
                assert mask.shape == (128, 128) and set(np.unique(mask)) == {0, 255}
            else:
                assert row["mask"] == "None"


def test_no_photograph_is_on_two_sides(forged):
    with open(forged / "forgeries.csv", newline="") as file:
        records = list(csv.DictReader(file))
    assert len(records) == 800
    for record in records:
        names = {record["host"], record["donor"]} - {"None"}
        assert {name.split("/")[0] for name in names} == {record["split"]}
        scenes = {name.split("__")[0] for name in names}
        needs_donor = record["kind"] in ("splice", "object", "swap")
        assert len(scenes) == 1 + needs_donor
        if needs_donor:
            assert set(json.loads(record["donor_history"])) <= {"resize", "jpeg"}


def test_everything_manipulated_scores_as_the_field_has_it(forged):
    area = np.array(
        [
            (mask_of(forged, row) > 0).mean()
            for row in rows_of(forged, "train")
            if row["label"] == "1"
        ]
    )
    assert 0.21 < (2 * area / (1 + area)).mean() < 0.27


def global_statistics(path: Path) -> list[float]:
    """What can be known of an image without looking for a region."""
    encoded = path.stat().st_size
    with Image.open(path) as image:
        tables = getattr(image, "quantization", None) or {}
        luminance = np.asarray(image.convert("L"), np.float64)
        saturation = np.asarray(image.convert("HSV"))[..., 1].mean()
    steps = np.abs(np.diff(luminance, axis=1)).mean(0)
    borders = np.arange(len(steps)) % 8 == 7
    is_png = path.suffix == ".png"
    return [
        *luminance.shape,
        encoded / luminance.size,
        is_png,
        is_png * encoded / luminance.size,
        np.mean(tables.get(0, 0)),
        np.mean(tables.get(1, 0)),
        luminance.mean(),
        luminance.var(),
        steps[borders].mean() / (steps[~borders].mean() + 1e-3),
        saturation,
    ]


def test_global_statistics_do_not_tell_the_label(forged):
    rows = rows_of(forged, "train")
    x = np.array([global_statistics(forged / row["image"]) for row in rows])
    y = np.array([int(row["label"]) for row in rows])
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    score = cross_val_predict(classifier, x, y, cv=folds, method="predict_proba")
    assert roc_auc_score(y, score[:, 1]) < 0.6


def test_the_place_of_a_region_tells_little(forged):
    masks = [
        mask_of(forged, row)[::4, ::4].ravel() > 0
        for row in rows_of(forged, "train")
        if row["label"] == "1"
    ]
    prior = np.mean(masks[:300], axis=0)
    assert np.mean([roc_auc_score(mask, prior) for mask in masks[300:]]) < 0.59


def test_first_three_kinds_draw_shapes_alone(photos, tmp_path, monkeypatch):
    # Their images, made by earlier versions, must come out the same.
    for source in ("grabcut", "oval"):
        monkeypatch.delitem(SOURCES, source)
    small(photos, tmp_path / "out", kinds=["splice", "copymove", "inpainting"])
    settings = json.loads((tmp_path / "out/forge.json").read_text())
    assert "segments" not in settings


@pytest.fixture
def street(tmp_path, rng):
    """Six photographs with label maps of three upright bands."""
    for name in ("photos/street", "maps"):
        (tmp_path / name).mkdir(parents=True)
    for i in range(6):
        image = cv2.blur(rng.integers(0, 256, (90, 120, 3), np.uint8), (3, 3))
        image[:, 40:80] = 255 - image[:, 40:80] // 2
        image = np.clip(image.astype(int) + 20 * i, 0, 255).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / f"photos/street/{i}.png")
        bands = np.repeat(np.uint8([3, 1, 2]), 40)[None].repeat(90, 0)
        Image.fromarray(bands).save(tmp_path / f"maps/{i}.png")
    return tmp_path


def test_splices_follow_the_segment_maps(street):
    settings = dict(kinds=["splice"], segments=street / "maps", size=64)
    counts = dict(count=20, count_val=0, count_test=0)
    small(street / "photos", street / "out", **settings, **counts)
    with open(street / "out/forgeries.csv", newline="") as file:
        records = {record["image"]: record for record in csv.DictReader(file)}
    rows = [r for r in rows_of(street / "out", "train") if r["label"] == "1"]
    assert len(rows) == 14
    for row in rows:
        record = records[row["image"]]
        region = json.loads(record["region"])
        assert region["source"] == "segment" and region["label"] in (1, 2, 3)
        mask = mask_of(street / "out", row) > 0
        lines = mask[mask.any(1)]
        assert (lines == lines[0]).all()  # part of an upright band
    assert set(json.loads((street / "out/forge.json").read_text())["segments"]) == {
        f"street/{i}.png" for i in range(6)
    }


def test_segment_map_that_does_not_fit_is_named(street, capsys):
    Image.new("L", (5, 5)).save(street / "maps/2.png")
    (street / "maps/3.png").write_text("no picture")
    settings = dict(count_val=0, count_test=0)
    small(street / "photos", street / "out", segments=street / "maps", **settings)
    printed = capsys.readouterr().out
    assert "another size than street/2.png: 2.png" in printed
    assert "segment map is unreadable: 3.png" in printed


def test_coloured_label_maps_keep_their_classes_apart(tmp_path):
    colours = np.uint8([[[10, 0, 0], [0, 10, 0]], [[0, 0, 10], [10, 0, 0]]])
    Image.fromarray(colours).save(tmp_path / "map.png")
    labels = read_labels(tmp_path / "map.png")
    assert labels[0, 0] == labels[1, 1] and len(np.unique(labels)) == 3
    deep = np.uint16([[[256, 0, 0], [0, 1, 0]], [[0, 0, 1], [1, 0, 0]]])
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    assert len(np.unique(read_labels(tmp_path / "deep.png"))) == 4


def test_host_and_save_do_not_depend_on_the_label(photos):
    found, _ = find_photographs(photos, size=32, progress=False)
    sides = split_photographs(found, np.random.default_rng(0))
    maker = forger.Forger(sides, size=32, seed=5)
    for index in range(20):
        kinds = ("authentic", "splice")
        made = [maker.make(forger.Task("train", index, kind)) for kind in kinds]
        (authentic, _, _, plain), (spliced, region, _, record) = made
        assert plain["save"] == record["save"]
        if plain["host_history"] == record["host_history"]:  # the first host would do
            outside = region == 0
            np.testing.assert_array_equal(authentic[outside], spliced[outside])


# --- repeating, resuming, refusing


def test_same_seed_gives_same_bytes_with_any_workers(photos, tmp_path):
    settings = dict(count=160, seed=9)
    small(photos, tmp_path / "one", **settings, workers=0)
    small(photos, tmp_path / "two", **settings, workers=2)
    small(photos, tmp_path / "other", **(settings | {"seed": 10}), workers=0)
    one, two, other = (every_byte(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert one != other


def test_interrupted_run_goes_on_and_equals_a_whole_one(photos, tmp_path, monkeypatch):
    small(photos, tmp_path / "whole")
    make, calls = forger.Forger.make, []

    def make_five(self, task):
        calls.append(task)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return make(self, task)

    monkeypatch.setattr(forger.Forger, "make", make_five)
    with pytest.raises(KeyboardInterrupt):
        small(photos, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with open(tmp_path / "out.partial" / "done.jsonl", "a") as done:
        done.write('["train/00')  # a line cut short
    small(photos, tmp_path / "out")
    assert len(calls) == 6 + 7
    assert every_byte(tmp_path / "out") == every_byte(tmp_path / "whole")
    assert not (tmp_path / "out.partial").exists()


def test_interrupted_run_of_other_settings_is_kept_and_named(photos, tmp_path):
    partial = tmp_path / "out.partial"
    partial.mkdir()
    (partial / "done.jsonl").write_text('["train/000000", {}]\n')
    small(photos, tmp_path / "whole", seed=4)
    settings = (tmp_path / "whole/forge.json").read_text()
    (partial / "forge.json").write_text(settings.replace('"seed": 4', '"seed": 5'))
    told = "out.partial holds an interrupted run of 1 images with other seed, size; go"
    with pytest.raises(InputError, match=told):
        small(photos, tmp_path / "out", seed=4, size=40)
    assert sorted(path.name for path in partial.iterdir()) == [
        "done.jsonl",
        "forge.json",
    ]


def test_two_at_once_are_one_line(photos, tmp_path):
    with locked_output(tmp_path / "out"):
        with pytest.raises(
            InputError, match=f"out: in use by process {os.getpid()} on"
        ):
            small(photos, tmp_path / "out")
    small(photos, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_finished_run_is_not_repeated(photos, tmp_path, monkeypatch, capsys):
    small(photos, tmp_path / "out")
    monkeypatch.setattr(forger.Forger, "make", None)
    small(photos, tmp_path / "out")
    assert "already holds" in capsys.readouterr().out
    with pytest.raises(InputError, match="other settings"):
        small(photos, tmp_path / "out", seed=1)


def test_folder_with_other_content_is_refused(photos, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="something else"):
        small(photos, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_whole_photographs_keep_their_size(photos, tmp_path):
    (tmp_path / "photos/train").mkdir(parents=True)
    for name in ("chelsea", "coins"):
        image = Image.open(photos / f"train/{name}.png").resize((90, 70))
        image.save(tmp_path / f"photos/train/{name}.png")
    settings = dict(count=6, count_val=0, count_test=0, size=0, authentic=0.5)
    small(tmp_path / "photos", tmp_path / "out", **settings)
    shapes = {
        read_image(tmp_path / "out" / row["image"]).shape
        for row in rows_of(tmp_path / "out", "train")
    }
    assert all(35 <= h <= 105 and 45 <= w <= 135 for h, w, _ in shapes)
    assert not (tmp_path / "out/paths_test.csv").exists()


def test_workers_that_die_are_told_in_one_line(photos, tmp_path, monkeypatch):
    def die(*_, **__):
        raise WorkersDie("worker processes die.")
        yield

    monkeypatch.setattr(dataset, "each", die)
    with pytest.raises(InputError, match="die. The same command goes on from there"):
        small(photos, tmp_path / "out", count=128, workers=2)


def test_photographs_beside_the_splits_are_named(photos, tmp_path, capsys):
    shutil.copytree(photos, tmp_path / "photos")
    shutil.copy(photos / "val/ihc.png", tmp_path / "photos/more.png")
    shutil.copy(photos / "test/rocket.png", tmp_path / "photos/val/more.png")
    small(tmp_path / "photos", tmp_path / "out")
    printed = capsys.readouterr().out
    assert "outside of train, val and test: more.png." in printed
    assert "the same bytes as test/rocket.png: val/more.png." in printed


def test_flat_photographs_are_refused(tmp_path, rng):
    for name in SPLITS:
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(2):
            sky = rng.integers(100 + i, 104, (40, 40, 3), np.uint8)
            Image.fromarray(sky).save(tmp_path / f"photos/{name}/{i}.png")
    with pytest.raises(InputError, match="empty areas"):
        small(tmp_path / "photos", tmp_path / "out")


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--segments=nowhere"], "--segments=nowhere: no such folder"),
        (["--segments=EMPTY"], "no PNG named and sized as a photograph"),
        (["--photos=nowhere"], "No folder of photographs at nowhere"),
        (["--photos=EMPTY"], "holds no photographs"),
        (["--kinds=splice,copy_move"], "nearest is 'copymove'"),
        (["--kinds="], "--kinds is empty"),
        (["--areas=0.2:0.1"], "--areas=0.2:0.1: give two shares"),
        (["--areas=0.2"], "--areas=0.2: takes LOW:HIGH"),
        (["--count=0"], "--count=0: give a number from 1"),
        (["--count_val=-1"], "--count_val=-1: give a number from 0"),
        (["--authentic=30"], "--authentic=30.0: give a share from 0 to 1"),
        (["--size=7"], "--size=7: give a side"),
        (["--size=430"], "gives test 1 scene(s) of at least 430x430"),
        (["--workers=-2"], "--workers=-2"),
        (["--strict", "--size=310"], "cannot serve, the first is train/chelsea.png"),
        (["--out=/proc/forged"], "/proc/forged"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_bad_input_is_told_in_one_line(photos, tmp_path, arguments, said, capsys):
    (tmp_path / "empty").mkdir()
    arguments = [a.replace("EMPTY", str(tmp_path / "empty")) for a in arguments]
    defaults = [f"--photos={photos}", f"--out={tmp_path / 'out'}", "--count=2"]
    with pytest.raises(SystemExit) as stop:
        forge_command.main([*defaults, *arguments])
    assert stop.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("Error: ") and said in last
    assert not (tmp_path / "out").exists()


def test_command_line_reports_what_it_made(photos, tmp_path, capsys):
    arguments = ["--count=4", "--count_val=0", "--count_test=1", "--size=32"]
    forge_command.main([f"--photos={photos}", f"--out={tmp_path / 'out'}", *arguments])
    assert "train: 4 images (1 authentic" in capsys.readouterr().out
