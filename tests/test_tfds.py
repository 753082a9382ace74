"""The data set of TFDS holds what the shards decode to, without TensorFlow."""

import subprocess
import sys

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from sdfl_jax.data import records
from sdfl_jax.data.build.builder import build
from sdfl_jax.errors import InputError

tfds = pytest.importorskip("tensorflow_datasets")

from sdfl_jax.data.tfds_builder import __main__ as tfds_command  # noqa: E402
from sdfl_jax.data.tfds_builder import sdfl_dataset_builder  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six files that decoders treat differently, one missing, and their shards."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    lines = ["image,mask,label,source,group,kind", "missing.png,,1,,,"]
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    for index in range(6):
        image = rng.integers(0, 256, (20 + index, 30, 3), np.uint8)
        name, picture = f"{index}.jpg", Image.fromarray(image)
        if index == 0:
            picture.save(folder / name, exif=exif)
        elif index == 1:
            picture.convert("CMYK").save(folder / name)
        elif index == 2:
            name = "2.png"
            (folder / name).write_bytes(imagecodecs.png_encode(image.astype("u2") << 8))
        else:
            picture.save(folder / name)
        mask = ""
        if index % 2:
            mask = f"{index}_gt.png"
            region = rng.integers(0, 256, (20 + index, 30), np.uint8)  # all shades
            Image.fromarray(region).save(folder / mask)
        label = int(index % 2 or index == 4)  # one without a mask
        lines.append(f"{name},{mask},{label},é,g{index},k")
    (folder / "list.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    build(folder / "list.csv", folder / "shards", progress=False)
    small = {"storage": "resized", "image_size": 16, "progress": False}
    build(folder / "list.csv", folder / "small", **small)
    return folder


def assert_equal_to_shards(examples, shards):
    source = records.RecordSource(shards)
    assert len(examples) == len(source) == 6
    for index in range(6):
        expected, found = records.decode(source[index]), examples[index]
        for plane in ("image", "mask"):
            assert found[plane].dtype == np.uint8
            np.testing.assert_array_equal(found[plane], expected[plane])
        for key in ("label", "has_mask"):
            assert found[key] == expected[key]
        for key in ("name", "source", "group", "kind"):
            assert found[key].decode() == expected[key]


def test_data_source_equals_the_shards(folder, tmp_path, capsys):
    splits = {
        "train": folder / "shards",
        "val": folder / "list.csv",
        "test": folder / "small",
    }
    sdfl_dataset_builder.prepare("study", tmp_path, splits)
    assert "1 of 7 lines rejected" in capsys.readouterr().out
    for split, shards in [("train", "shards"), ("val", "shards"), ("test", "small")]:
        examples = tfds.data_source("sdfl/study", split=split, data_dir=tmp_path)
        assert_equal_to_shards(examples, folder / shards)
    assert "tensorflow" not in sys.modules
    with pytest.raises(InputError, match="exists already"):
        sdfl_dataset_builder.prepare("study", tmp_path, splits)


def test_others_read_it_without_this_package_or_tensorflow(folder, tmp_path):
    arguments = ["--name=other", f"--data_dir={tmp_path}", f"--train={folder}/shards"]
    tfds_command.main(arguments)
    code = (
        "import sys, tensorflow_datasets as tfds\n"
        "read = tfds.data_source('sdfl/other', split='train', data_dir=sys.argv[1])\n"
        "assert read[0]['image'].shape == (30, 20, 3), read[0]['image'].shape\n"
        "assert not {'tensorflow', 'sdfl_jax'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(command, check=True, cwd=tmp_path)


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (["--name=a/b", "--train=list.csv"], "--name=a/b"),
        (["--name=x"], "no split"),
        (["--name=x", "--train=none.csv"], "no such list"),
        (["--name=x", "--train=."], "not a folder of shards"),
        (["--name=x", "--train=empty.csv"], "none of 1 lines"),
    ],
)
def test_wrong_arguments_are_one_line(folder, arguments, reason, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "empty.csv").write_text("image,label\nmissing.png,0\n")
    with pytest.raises(SystemExit) as caught:
        tfds_command.main(["--data_dir=data", *arguments])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert caught.value.code == 2 and reason in error
    assert not (folder / "data" / "sdfl" / "x" / "1.0.0").exists()


def test_failed_attempt_does_not_stand_in_the_way(folder, tmp_path):
    (folder / "empty.csv").write_text("image,label\nmissing.png,0\n")
    with pytest.raises(InputError):
        sdfl_dataset_builder.prepare("x", tmp_path, {"train": folder / "empty.csv"})
    sdfl_dataset_builder.prepare("x", tmp_path, {"train": folder / "shards"})
