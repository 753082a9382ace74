"""Batches: the same for every machine, balanced, complete, and joined again."""

import dataclasses
import itertools
import multiprocessing
import os
import signal

import cv2
import numpy as np
import pytest
from PIL import Image

from sdfl_jax.data import ahead, transforms
from sdfl_jax.data.batches import FileSource, eval_batches
from sdfl_jax.data.build.builder import build
from sdfl_jax.data.pipeline import steps_per_epoch, train_batches
from sdfl_jax.data.records import RecordSource, decode
from sdfl_jax.data.tiling import Assembler, SecondLook
from sdfl_jax.errors import InputError

SIZES = [(40, 56), (56, 40), (33, 47), (70, 64), (20, 90)]


def make_shards(root, labels, sizes=SIZES, without_mask=(), **options):
    """A picture for each label, its mask the pixels whose red value is 128 or more."""
    rng = np.random.default_rng(0)
    lines = []
    for index, label in enumerate(labels):
        size = sizes[index % len(sizes)]
        image = rng.integers(0, 256, (*size, 3), np.uint8)
        mask = "None"
        if label:
            if index not in without_mask:
                mask = f"{index}_gt.png"
                Image.fromarray(image[..., 0] // 128 * 255).save(root / mask)
        Image.fromarray(image).save(root / f"{index}.png")
        lines.append(f"{index}.png {mask} {label}\n")
    (root / "list.txt").write_text("".join(lines))
    build(
        root / "list.txt", root / "shards", lines_per_shard=4, progress=False, **options
    )
    return root / "shards"


LABELS = [0, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0]  # 3 authentic, 8 manipulated


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("data"), LABELS)


def stream(folder, count, **options):
    options = {
        "batch_size": 4,
        "image_size": 32,
        "geometry": "crop",
        "seed": 3,
        **options,
    }
    return list(itertools.islice(train_batches(folder, **options), count))


def assert_equal(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name])


@pytest.mark.parametrize("geometry", ["resize", "crop"])
def test_batches_have_the_agreed_arrays(shards, geometry):
    batch = stream(shards, 1, geometry=geometry)[0]
    described = {name: (x.dtype.name, x.shape) for name, x in batch.items()}
    assert described == {
        "image": ("uint8", (4, 32, 32, 3)),
        "mask": ("uint8", (4, 32, 32, 1)),
        "label": ("float32", (4,)),
        "has_mask": ("float32", (4,)),
        "index": ("int32", (4,)),
        "damaged": ("int32", (4,)),
    }


@pytest.mark.parametrize("geometry", ["resize", "crop"])
def test_masks_stay_under_their_images(shards, geometry):
    """Red tells where the mask is; flips, crops and padding must not part them."""
    options = {"flips": True, "image_size": 48, "geometry": geometry}
    agree = []
    for batch in stream(shards, 6, **options):
        manipulated = np.isin(batch["index"], np.flatnonzero(LABELS))
        assert not batch["mask"][~manipulated].any()
        same = (batch["mask"] >= 128) == (batch["image"][..., :1] >= 128)
        agree.extend(same.mean(axis=(1, 2, 3))[manipulated])
    if geometry == "crop":
        assert set(agree) == {1}
    else:  # bilinear beside nearest; unrelated noise would agree on half
        assert np.mean(agree) > 0.62


def test_resized_batches_hold_the_whole_image(shards):
    source = RecordSource(shards)
    batch = stream(shards, 1, geometry="resize", flips=False)[0]
    for row, index in enumerate(batch["index"]):
        example = transforms.Resize(size=32).map(decode(source[int(index)]))
        np.testing.assert_array_equal(batch["image"][row], example["image"])
        np.testing.assert_array_equal(batch["mask"][row], example["mask"])


def test_same_seed_same_stream_and_other_seeds_differ(shards):
    assert_equal(stream(shards, 8), stream(shards, 8))
    one, other = stream(shards, 8), stream(shards, 8, seed=4)
    assert any(
        (a["index"] != b["index"]).any() for a, b in zip(one, other, strict=True)
    )


def test_worker_processes_change_nothing(shards):
    assert_equal(stream(shards, 9), stream(shards, 9, workers=2))


@pytest.mark.parametrize("processes", [2, 4])
def test_parts_of_all_processes_make_up_the_batch(shards, processes):
    whole = stream(shards, 9)
    parts = [
        stream(shards, 9, process=process, processes=processes)
        for process in range(processes)
    ]
    joined = [
        {name: np.concatenate([part[name] for part in step]) for name in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_equal(whole, joined)


@pytest.mark.parametrize("start", [1, 5, 13])
def test_stream_from_any_step_continues_the_uninterrupted_one(shards, start):
    whole = stream(shards, 16)
    assert_equal(whole[start:], stream(shards, 16 - start, start_step=start))
    part = stream(shards, 16 - start, start_step=start, process=1, processes=2)
    for batch, half in zip(whole[start:], part, strict=True):
        np.testing.assert_array_equal(batch["image"][2:], half["image"])


def test_epochs_are_balanced_and_take_every_example_its_share(shards):
    """Of 16 slots an epoch each manipulated example has 1, each authentic one 8/3."""
    assert steps_per_epoch(shards, 4) == 4
    batches = stream(shards, 12)
    total = np.zeros(11, int)
    for epoch in range(3):
        indices = np.concatenate([b["index"] for b in batches[4 * epoch :][:4]])
        counts = np.bincount(indices, minlength=11)
        labels = np.array(LABELS)
        assert (counts[labels == 1] == 1).all()
        assert set(counts[labels == 0]) <= {2, 3} and counts[labels == 0].sum() == 8
        total += counts
    assert (total[np.array(LABELS) == 0] == 8).all()  # the remainder goes round


def test_epochs_without_balance_take_every_example_once(shards):
    batches = stream(shards, 22, balance=False)
    assert steps_per_epoch(shards, 4, balance=False) == 2
    indices = np.concatenate([batch["index"] for batch in batches]).reshape(8, 11)
    np.testing.assert_array_equal(np.sort(indices), np.tile(np.arange(11), (8, 1)))
    assert len({tuple(epoch) for epoch in indices}) == 8  # each in another order


@pytest.fixture(scope="module")
def mixed(shards, tmp_path_factory):
    """Of 11 examples 6 an epoch, and of 3 others 4."""
    more = make_shards(tmp_path_factory.mktemp("more"), [0, 0, 1])
    return f"one={shards}:6,two={more}:4", (shards, more)


def test_a_mix_draws_so_many_of_each_set_an_epoch(mixed):
    text, _ = mixed
    assert steps_per_epoch(text, 2) == 5
    batches = stream(text, 40, batch_size=2)
    epochs = np.concatenate([batch["index"] for batch in batches]).reshape(8, 10)
    for epoch in epochs:
        first, second = epoch[epoch < 11], epoch[epoch >= 11]
        assert len(set(first.tolist())) == len(first) == 6
        counts = np.bincount(second - 11, minlength=3)
        assert sorted(counts) == [1, 1, 2]
    assert len({frozenset(epoch[epoch < 11].tolist()) for epoch in epochs}) > 4
    assert len({tuple(epoch) for epoch in epochs}) == 8


def test_a_mix_without_counts_takes_all_of_every_set(mixed):
    _, (shards, more) = mixed
    text = f"one={shards},two={more}"
    assert steps_per_epoch(text, 14) == 1
    for batch in stream(text, 3, batch_size=14, balance=True):
        assert sorted(batch["index"]) == list(range(14))


def test_records_of_a_mix_are_those_of_its_sets(mixed):
    text, folders = mixed
    labels = [*LABELS, 0, 0, 1]
    sources = [RecordSource(folder) for folder in folders]
    for batch in stream(text, 10, geometry="resize", flips=False):
        for row, index in enumerate(batch["index"].tolist()):
            record = sources[index >= 11][index - 11 * (index >= 11)]
            example = transforms.Resize(size=32).map(decode(record))
            np.testing.assert_array_equal(batch["image"][row], example["image"])
            assert batch["label"][row] == labels[index]


def test_a_mix_is_the_same_on_other_processes_and_when_it_goes_on(mixed):
    text, _ = mixed
    whole = stream(text, 9)
    parts = [stream(text, 9, process=i, processes=2, workers=i) for i in range(2)]
    joined = [
        {name: np.concatenate([part[name] for part in step]) for name in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_equal(whole, joined)
    assert_equal(whole[4:], stream(text, 5, start_step=4))


def test_a_mix_that_is_written_wrongly_is_one_line(mixed, tmp_path):
    _, (shards, more) = mixed
    for text, said in (
        (f"{shards},{more}", "is not NAME=SHARDS or NAME=SHARDS:COUNT"),
        (f"a={shards},", "'' is not NAME=SHARDS"),
        (f"a={shards}:5,a={more}", "two sets are called 'a'"),
        (f"a={shards}:0", "'0' of each epoch, where a whole number"),
        (f"a={shards}:half", "'half' of each epoch"),
        (f"a={tmp_path / 'x'}:5", "no such folder of shards"),
    ):
        with pytest.raises(InputError, match=said):
            stream(text, 1)


def test_same_example_is_cut_anew_each_time(shards):
    seen = {}
    for batch in stream(shards, 16):
        for index, image in zip(batch["index"], batch["image"], strict=True):
            seen.setdefault(int(index), set()).add(image.tobytes())
    assert all(len(crops) > 1 for crops in seen.values())


def test_flips_mirror_both_axes_half_of_the_time():
    plane = np.arange(12, dtype=np.uint8).reshape(3, 4)
    example = {"image": np.dstack([plane] * 3), "mask": plane[..., None]}
    flip = transforms.RandomFlip()
    rng = np.random.default_rng(0)
    seen = {}
    for _ in range(400):
        flipped = flip.random_map(example, rng)
        assert flipped["mask"].shape == (3, 4, 1)
        np.testing.assert_array_equal(flipped["image"][..., 1:2], flipped["mask"])
        key = flipped["mask"].tobytes()
        seen[key] = seen.get(key, 0) + 1
    mirrored = [plane, plane[::-1], plane[:, ::-1], plane[::-1, ::-1]]
    assert set(seen) == {x.tobytes() for x in mirrored}
    assert min(seen.values()) > 70


def crop(example, size=32, seed=0):
    return transforms.RandomCrop(size=size).random_map(
        example, np.random.default_rng(seed)
    )


def test_label_follows_the_window():
    mask = np.zeros((32, 200, 1), np.uint8)
    mask[:, :50] = 128
    example = {"image": np.zeros((32, 200, 3), np.uint8), "mask": mask}
    example |= {"label": 1, "has_mask": True}
    crops = [crop(example, seed=seed) for seed in range(40)]
    assert {one["label"] for one in crops} == {0, 1}
    for one in crops:
        assert one["label"] == int((one["mask"] >= 128).any())
    unknown = example | {"mask": np.zeros_like(mask), "has_mask": False}
    assert crop(unknown)["label"] == 1
    assert crop(example | {"label": 0, "mask": np.zeros_like(mask)})["label"] == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 40), (31, 32), (5, 2)])
def test_small_images_are_mirrored_up_to_the_window(size):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    example = {"image": image, "mask": image[..., :1], "label": 1, "has_mask": True}
    one = crop(example)
    assert one["image"].shape == (32, 32, 3)
    np.testing.assert_array_equal(one["image"][..., :1], one["mask"])
    if size == (7, 40):
        below = np.pad(one["image"][:7], ((0, 25), (0, 0), (0, 0)), "reflect")
        np.testing.assert_array_equal(one["image"], below)


def test_manipulated_image_without_mask_is_told_apart(tmp_path):
    folder = make_shards(tmp_path, [0, 1, 1], without_mask=[1])
    for batch in stream(folder, 4, batch_size=2):
        np.testing.assert_array_equal(batch["has_mask"], batch["index"] != 1)
        np.testing.assert_array_equal(batch["label"], batch["index"] != 0)


def test_resized_shards_train_and_refuse_what_they_do_not_hold(tmp_path, shards):
    folder = make_shards(tmp_path, LABELS, storage="resized", image_size=32)
    from_originals = stream(shards, 5, geometry="resize")
    assert_equal(from_originals, stream(folder, 5, geometry="resize"))
    with pytest.raises(InputError, match="resized to 32x32, not 64x64"):
        stream(folder, 1, geometry="resize", image_size=64)
    for read in (stream, lambda *a, **k: eval_all(folder, geometry="crop")):
        with pytest.raises(InputError, match="native resolution"):
            read(folder, 1)


def test_wrong_settings_are_one_line(tmp_path, shards):
    with pytest.raises(InputError, match="cannot be split over 3 processes"):
        stream(shards, 1, processes=3)
    with pytest.raises(InputError, match="No geometry 'stretch'"):
        stream(shards, 1, geometry="stretch")
    authentic = make_shards(tmp_path, [0, 0, 0])
    with pytest.raises(InputError, match="no manipulated image"):
        stream(authentic, 1)
    with pytest.raises(InputError, match="no manipulated image"):
        steps_per_epoch(authentic, 2)
    assert len(stream(authentic, 2, balance=False)) == 2


def test_worker_that_dies_raises_and_does_not_hang(shards):
    before = set(multiprocessing.active_children())
    batches = train_batches(
        shards, batch_size=2, image_size=64, geometry="crop", seed=0, workers=1
    )
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - before
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="terminated unexpectedly"):
        for _ in range(100):
            next(batches)


# --- Evaluation


def eval_all(source, **options):
    options = {"batch_size": 4, "image_size": 32, "geometry": "resize", **options}
    return list(eval_batches(source, **options))


def reassembled(batches):
    """What a network that finds the mask exactly would give."""
    assembler = Assembler()
    for batch in batches:
        probs = batch.arrays["mask"][..., 0].astype(np.float32) / 255
        yield from assembler.add(batch, probs, batch.arrays["label"])


@pytest.mark.parametrize("geometry, workers", [("resize", 0), ("crop", 0), ("crop", 1)])
def test_every_example_comes_exactly_once_in_order(shards, geometry, workers):
    batches = eval_all(shards, geometry=geometry, workers=workers)
    finished = list(reassembled(batches))
    assert [example["index"] for example, _, _ in finished] == list(range(11))
    assert [example["name"] for example, _, _ in finished] == [
        f"{index}.png" for index in range(11)
    ]
    for example, probs, score in finished:
        size = (example["height"], example["width"])
        assert probs.shape == example["original_mask"].shape == size
        assert probs.dtype == np.float32 and score == example["label"]
        assert "image" not in example


def test_padding_rows_are_marked(shards):
    batches = eval_all(shards)
    assert [int(batch.arrays["valid"].sum()) for batch in batches] == [4, 4, 3]
    for batch in batches:
        assert {name: x.dtype.name for name, x in batch.arrays.items()} == {
            "image": "uint8",
            "mask": "uint8",
            "label": "float32",
            "has_mask": "float32",
            "valid": "bool",
        }
        assert all(len(x) == 4 for x in batch.arrays.values())
        assert len(batch.tiles) == batch.arrays["valid"].sum()
    last = batches[-1].arrays["image"]
    np.testing.assert_array_equal(last[3], last[0])


def test_native_resolution_comes_back_exactly(shards):
    for example, probs, _ in reassembled(eval_all(shards, geometry="crop")):
        np.testing.assert_array_equal(
            probs, example["original_mask"].astype(np.float32) / 255
        )


def test_batches_hold_one_of_few_shapes_and_rows_are_mirrored(shards):
    batches = eval_all(shards, geometry="crop")
    shapes = {batch.arrays["image"].shape[1:3] for batch in batches}
    assert shapes == {(64, 64), (96, 64), (64, 96)}
    source = RecordSource(shards)
    for batch in batches:
        for image, tile in zip(batch.arrays["image"], batch.tiles, strict=False):
            original = decode(source[tile.index])["image"]
            sides = [(0, image.shape[a] - original.shape[a]) for a in (0, 1)]
            mirrored = np.pad(original, (*sides, (0, 0)), "reflect")
            np.testing.assert_array_equal(image, mirrored)


@pytest.mark.parametrize("size", [(300, 500), (129, 128), (128, 400), (1000, 130)])
def test_tiles_of_big_images_join_without_seams(tmp_path, size):
    """An identity network on tiles gives the image back, to rounding."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "big.png")
    source = FileSource([tmp_path / "big.png"])
    batches = eval_all(source, geometry="crop", max_side=128, keep_images=True)
    assembler = Assembler()
    finished = []
    for batch in batches:
        assert batch.arrays["image"].shape[1:3] == (128, 128)
        image = batch.arrays["image"][..., 1].astype(np.float32) / 255
        scores = np.arange(len(image)) * batch.arrays["valid"] + 0.5
        finished += assembler.add(batch, image, scores)
    ((example, joined, score),) = finished
    assert joined.shape == size and joined.dtype == np.float32
    np.testing.assert_allclose(joined, picture[..., 1] / 255, atol=1e-6)
    np.testing.assert_array_equal(example["image"], picture)
    tiles = [tile for batch in batches for tile in batch.tiles]
    assert len(tiles) == tiles[0].parts > 1
    assert score == max(s + 0.5 for b in batches for s in range(len(b.tiles)))
    tops = sorted({tile.box[0] for tile in tiles})
    assert all(b - a <= 128 - 64 for a, b in itertools.pairwise(tops))


def test_a_small_image_is_looked_at_twice(tmp_path):
    """The mean logit of the image's own map and that of it enlarged, at its size."""
    rng = np.random.default_rng(0)
    for name, size in (("small", (60, 90)), ("large", (600, 500))):
        picture = cv2.resize(rng.integers(30, 225, (*size, 3), np.uint8), size[::-1])
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    source = FileSource([tmp_path / "small.png", tmp_path / "large.png"])
    batches = eval_all(
        source, geometry="crop", again=SecondLook(1.5, np.log(2)), keep_images=True
    )
    assembler, finished, sizes = Assembler(), [], []
    for batch in batches:
        rows = batch.arrays["image"].astype(np.float32) / 255
        bigger = [tile.shown is not None for tile in batch.tiles]
        sizes += [tile.shown for tile in batch.tiles]
        scores = np.full(len(rows), 0.9 if any(bigger) else 0.5)
        assert len(set(bigger)) == 1
        finished += assembler.add(batch, rows[..., 1], scores)
    assert sorted(sizes, key=str) == [(90, 135), None, None]
    (small, probs, score), (_, _, alone) = finished
    assert probs.shape == (60, 90) and probs.dtype == np.float32
    assert score == pytest.approx(6 / 7) and alone == 0.5  # odds of 9 and 1: 3, doubled
    own = small["image"][..., 1] / 255
    bigger = cv2.resize(small["image"], (135, 90), interpolation=cv2.INTER_CUBIC)
    other = cv2.resize(np.float32(bigger[..., 1] / 255), (90, 60))
    odds = np.sqrt(own / (1 - own) * other / (1 - other))
    np.testing.assert_allclose(probs, odds / (1 + odds), atol=1e-4)


@pytest.mark.parametrize(
    "more", [{"max_side": 128}, {"geometry": "resize", "image_size": 64}, {}]
)
def test_once_where_twice_would_not_do(tmp_path, more):
    """Where enlarging takes tiles, whole images are stretched, or nobody asks."""
    Image.fromarray(np.zeros((60, 90, 3), np.uint8)).save(tmp_path / "small.png")
    settings = {"geometry": "crop", "again": SecondLook(1.5 if more else 0)} | more
    (batch,) = eval_all(FileSource([tmp_path / "small.png"]), **settings)
    assert [(tile.parts, tile.looks) for tile in batch.tiles] == [(1, 1)]


def test_label_of_a_tile_follows_its_mask_and_of_a_whole_image_does_not(tmp_path):
    folder = make_shards(tmp_path, [1, 1], sizes=[(32, 32), (32, 300)])
    mask = np.zeros((32, 300), np.uint8)
    mask[:, :60] = 255
    Image.fromarray(mask).save(tmp_path / "1_gt.png")
    build(tmp_path / "list.txt", tmp_path / "again", progress=False)
    folder = tmp_path / "again"
    labels = {}
    for batch in eval_all(folder, geometry="crop", max_side=128):
        for label, tile in zip(batch.arrays["label"], batch.tiles, strict=False):
            labels.setdefault(tile.index, []).append((tile.box[1], label))
    assert sorted(labels[1]) == [(0, 1), (57, 1), (114, 0), (172, 0)]
    assert [label for _, label in labels[0]] == [1]


def test_neighbouring_tiles_fade_into_each_other(tmp_path):
    """Where two tiles disagree there is a ramp, not a step."""
    Image.fromarray(np.zeros((64, 192, 3), np.uint8)).save(tmp_path / "x.png")
    (batch,) = eval_all(FileSource([tmp_path / "x.png"]), geometry="crop", max_side=128)
    assert [tile.box[1] for tile in batch.tiles] == [0, 64]
    maps = np.zeros(batch.arrays["image"].shape[:3], np.float32)
    maps[1] = 1
    ((_, joined, _),) = Assembler().add(batch, maps, np.zeros(4))
    assert (joined[:, :64] == 0).all() and (joined[:, 128:] == 1).all()
    steps = np.diff(joined[32])
    assert (steps >= 0).all() and steps.max() < 0.05


def test_rare_shape_does_not_wait_for_the_end(tmp_path):
    folder = make_shards(
        tmp_path, [0] * 40, sizes=[(32, 90), *[(32, 32)] * 39], storage="original"
    )
    batches = eval_all(folder, geometry="crop", batch_size=2)
    wide = [batch.arrays["image"].shape[2] == 96 for batch in batches]
    assert wide.index(True) < len(batches) - 5
    indices = [example["index"] for example, _, _ in reassembled(batches)]
    assert indices == list(range(40))


def test_unreadable_files_are_told_and_the_rest_goes_on(tmp_path):
    paths = []
    for index in range(7):
        paths.append(tmp_path / "sub" / f"{index}.png")
        paths[-1].parent.mkdir(exist_ok=True)
        if index in (0, 3, 6):
            paths[-1].write_text("not an image")
        else:
            Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(paths[-1])
    batches = eval_all(FileSource(paths, root=tmp_path), batch_size=2)
    errors = [error for batch in batches for error in batch.errors]
    assert [error["name"] for error in errors] == [f"sub/{i}.png" for i in (0, 3, 6)]
    assert all("looks like text" in error["error"] for error in errors)
    finished = [example["name"] for example, _, _ in reassembled(batches)]
    assert finished == [f"sub/{i}.png" for i in (1, 2, 4, 5)]
    with pytest.raises(InputError, match="None of 2 files can be read"):
        eval_all(FileSource(paths[0:4:3]))


def test_files_are_named_relative_to_what_holds_them_all(tmp_path):
    paths = [tmp_path / "a" / "x.png", tmp_path / "b" / "x.png"]
    for path in paths:
        path.parent.mkdir()
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    source = FileSource(paths)
    assert [source[index]["name"] for index in (0, 1)] == ["a/x.png", "b/x.png"]
    assert not source[0]["has_mask"] and source[0]["label"] == 0


def test_transforms_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        transforms.RandomCrop(size=3).size = 4


@pytest.mark.parametrize("bad", ["score", "map"])
def test_an_answer_that_is_no_number_is_lost_and_not_joined(tmp_path, bad):
    """Of a tile as of a whole image; the images around it stay."""
    for name, width in (("a", 64), ("b", 192), ("c", 64)):
        Image.fromarray(np.zeros((64, width, 3), np.uint8)).save(
            tmp_path / f"{name}.png"
        )
    source = FileSource([tmp_path / f"{name}.png" for name in "abc"])
    assembler, finished = Assembler(), []
    for batch in eval_all(source, geometry="crop", max_side=128):
        maps = np.zeros(batch.arrays["image"].shape[:3], np.float32)
        scores = np.zeros(len(maps))
        for row, tile in enumerate(batch.tiles):
            if tile.example["name"] == "b.png" and tile.box[1] > 0:
                if bad == "score":
                    scores[row] = np.nan
                else:
                    maps[row, 5, 5] = np.inf
        finished += assembler.add(batch, maps, scores)
    assert [example["name"] for example, _, _ in finished] == ["a.png", "c.png"]
    assert [lost["name"] for lost in assembler.lost] == ["b.png"]


@pytest.mark.parametrize("workers", [0, 1])
def test_examples_are_made_in_order(workers):
    assert list(ahead.in_order(_square, 40, workers)) == [i * i for i in range(40)]


def _square(index: int) -> int:
    return index * index


def test_no_more_is_made_ahead_than_threads_hold_and_nothing_for_nobody():
    made, last = [], 1000

    def make(index):
        if index == last:
            raise ValueError("broken")
        return made.append(index) or index

    examples = ahead.in_order(make, 2000, 0)
    assert [next(examples) for _ in range(100)] == list(range(100))
    examples.close()
    assert len(made) <= 100 + 16  # the most threads that there are
    with pytest.raises(ValueError, match="broken"):
        list(ahead.in_order(make, 2000, 0))
