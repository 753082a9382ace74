"""Stores that fsspec knows serve as disks do: images, shards, masks."""

import itertools
import json

import fsspec
import numpy as np
import pytest

from sdfl_jax import stores
from sdfl_jax.data import images
from sdfl_jax.data.build.__main__ import check
from sdfl_jax.data.build.__main__ import main as build_command
from sdfl_jax.data.records import RecordSource
from sdfl_jax.errors import InputError
from sdfl_jax.predict.__main__ import main as predict_command
from tests import tiny
from tests.pictures import build_here, content, make_list

_numbers = itertools.count()


@pytest.fixture(params=["memory", "file"])
def store(request, tmp_path):
    """The address of an empty folder, of a store in memory and of one on the disk."""
    if request.param == "file":
        return f"file://{tmp_path}/store"
    return f"memory://store{next(_numbers)}"


def upload(folder, store: str):
    for path in folder.iterdir():
        stores.put(path, f"{store}/{path.name}")


def download(store: str, folder):
    files, inside = stores.store(store)
    files.get(f"{inside}/", f"{folder}/", recursive=True)


def test_a_build_from_a_store_to_a_store_is_the_same_to_the_byte(
    tmp_path, store, capsys
):
    photos = tmp_path / "photos"
    photos.mkdir()
    make_list(photos)
    (photos / "4.png").unlink()
    (photos / "6.png").write_bytes(b"no image")
    upload(photos, f"{store}/photos")
    build_here(photos, "here", lines_per_shard=256)
    out = f"{store}/out"
    given = [f"--paths_file={store}/photos/list.csv", f"--out={out}", "--workers=0"]
    build_command(given)
    download(out, tmp_path / "copy")
    here, there = content(photos / "here"), content(tmp_path / "copy")
    # These name the images by their paths, and the list by the files' sizes.
    for name in ("manifest.json", "rejected.csv"):
        here.pop(name), there.pop(name)
    assert here == there and len(here) == 1
    rejected = stores.read(f"{out}/rejected.csv").decode()
    assert "4.png: no such file" in rejected or "no such file" in rejected
    assert check([out, "--workers=0"]) == 0
    capsys.readouterr()
    build_command(given)
    assert "built already" in capsys.readouterr().out


def test_shards_in_a_store_are_copied_before_they_are_read(store):
    with pytest.raises(InputError, match="shards are read from a disk"):
        RecordSource(f"{store}/out")


def test_a_store_that_falters_is_asked_again(monkeypatch):
    monkeypatch.setattr(stores, "PAUSE", 0)
    address = "memory://faltering/0.png"
    image = np.zeros((4, 4, 3), np.uint8)
    images.write_png(address, image)
    answers = iter([ConnectionError("busy"), ConnectionError("busy"), None])
    files = fsspec.filesystem("memory")
    cat = files.cat_file

    def falter(path, **how):
        if error := next(answers, ConnectionError("gone")):
            raise error
        return cat(path, **how)

    monkeypatch.setattr(files, "cat_file", falter)
    np.testing.assert_array_equal(images.read_image(address), image)
    with pytest.raises(InputError, match="faltering/0.png: gone"):
        images.read_image(address)


@pytest.mark.parametrize("path", ["nowhere://b/x", "gs://b/x"])
def test_a_store_that_nobody_knows_is_one_line(path):
    with pytest.raises(InputError, match="no such kind of store|gcsfs") as error:
        images.read_image(path)
    assert len(str(error.value).splitlines()) == 1


def test_masks_of_photographs_in_a_store_lie_in_a_store(tmp_path, store, capsys):
    workdir = tiny.write_run(tmp_path / "run")
    photos = tmp_path / "photos"
    tiny.write_images(photos, 2)
    (photos / "broken.png").write_bytes(b"no image")
    upload(photos, f"{store}/photos")
    for where, out in (
        (photos, tmp_path / "here"),
        (f"{store}/photos", f"{store}/out"),
    ):
        with pytest.raises(SystemExit, match="1"):  # for the broken one
            predict_command([f"--workdir={workdir}", f"--out={out}", str(where)])
    printed = capsys.readouterr()
    lines = [json.loads(line) for line in printed.out.splitlines()]
    assert [line["image"] for line in lines] == ["0.png", "1.png", "1_mask.png"] * 2
    assert lines[-1]["mask"] == f"{store}/out/masks/1_mask.png"
    assert f"{store}/photos/broken.png: not an image" in printed.err
    masks = {p.name: p.read_bytes() for p in (tmp_path / "here/masks").glob("*.png")}
    assert masks == {
        name: stores.read(f"{store}/out/masks/{name}")
        for name in stores.names(f"{store}/out/masks")
        if name.endswith(".png")
    }
    assert len(masks) == 3
