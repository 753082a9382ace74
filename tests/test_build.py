"""Lists become shards: complete, exact, atomic, and resumed after a kill."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import cv2
import imagecodecs
import numpy as np
import pytest
from PIL import Image

from sdfl_jax import files
from sdfl_jax.data import records
from sdfl_jax.data.build import builder as building
from sdfl_jax.data.build.__main__ import main
from sdfl_jax.data.build.builder import build
from sdfl_jax.errors import InputError
from tests.pictures import (
    build_here,
    content,
    edit_list,
    environment,
    examples,
    make_list,
)


@pytest.fixture
def folder(tmp_path):
    make_list(tmp_path)
    return tmp_path


def test_original_storage_keeps_the_file_s_bytes_and_the_mask(folder):
    manifest = build_here(folder)
    assert manifest["examples"] == 12 and manifest["classes"] == {"0": 4, "1": 8}
    assert manifest["sources"]["one"] == {"0": 2, "1": 3}
    assert manifest["kinds"] == {"k": 12} and manifest["rejected"] == 0
    assert [shard["examples"] for shard in manifest["shards"]] == [5, 5, 2]
    assert "".join(shard["labels"] for shard in manifest["shards"]) == "011" * 4
    for index, example in enumerate(examples(folder / "out")):
        assert example["name"] == f"{index}.png" and example["group"] == f"g{index}"
        size = (example["height"], example["width"])
        assert size == example["original_mask"].shape == (20 + index, 30)
        expected = np.asarray(Image.open(folder / example["name"]))
        np.testing.assert_array_equal(example["image"], expected)
        region = np.zeros((20 + index, 30), np.uint8)
        if index % 3:
            region = np.asarray(Image.open(folder / f"{index}_gt.png"))
        np.testing.assert_array_equal(example["mask"][..., 0], region)
        assert example["has_mask"] and example["label"] == int(index % 3 > 0)
    raw = records.RecordSource(folder / "out")[0]
    assert (folder / "0.png").read_bytes() in raw


def test_only_takes_the_lines_of_one_label(folder):
    manifest = build_here(folder, only="label=1")
    assert manifest["classes"] == {"0": 0, "1": 8}
    with pytest.raises(InputError, match="--only=lable=1: .*'label'"):
        build_here(folder, only="lable=1", out="other")
    with pytest.raises(InputError, match="--only=kind=j: no such kind"):
        build_here(folder, only="kind=j", out="other")


@pytest.mark.parametrize("compression", ["raw", "zstd"])
def test_resized_storage_holds_the_reference_s_pixels_without_loss(folder, compression):
    build_here(folder, storage="resized", image_size=16, compression=compression)
    for index, example in enumerate(examples(folder / "out")):
        original = np.asarray(Image.open(folder / example["name"]))
        expected = cv2.resize(original, (16, 16), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_array_equal(example["image"], expected)
        mask = example["original_mask"]
        assert mask.shape == (20 + index, 30)
        small = cv2.resize(mask, (16, 16), interpolation=cv2.INTER_NEAREST)
        np.testing.assert_array_equal(example["mask"][..., 0], small)


def test_checksums_are_those_of_the_shards(folder):
    manifest = build_here(folder)
    sums = content(folder / "out")
    assert {s["file"]: s["sha256"] for s in manifest["shards"]}.items() <= sums.items()
    assert set(sums) - {s["file"] for s in manifest["shards"]} == {
        "manifest.json",
        "rejected.csv",
    }


def test_workers_change_nothing(folder):
    build_here(folder, "one")
    build_here(folder, "two", workers=2)
    assert content(folder / "one") == content(folder / "two")


def test_bad_lines_are_listed_and_the_rest_goes_on(folder):
    (folder / "text.png").write_text("not an image")
    Image.fromarray(np.full((20, 30), 255, np.uint8)).save(folder / "white.png")
    jpeg = imagecodecs.jpeg8_encode(np.zeros((64, 64, 3), np.uint8))
    (folder / "cut.jpg").write_bytes(jpeg[:-20])
    (folder / "zero.jpg").write_bytes(b"")

    def edit(lines):
        lines[1:1] = [
            "missing.png,,0",
            "text.png,,1",
            "cut.jpg,,0",
            "zero.jpg,,0",
            "1.png,missing_gt.png,1",
            "0.png,,7",
            "0.png,white.png,0",
        ]

    edit_list(folder, edit)
    manifest = build_here(folder)
    assert manifest["examples"] == 12 and manifest["rejected"] == 7
    with open(folder / "out" / "rejected.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["line"]) for row in rows] == [2, 3, 4, 5, 6, 7, 8]
    reasons = [
        "no such file",
        "looks like text",
        "damaged JPEG",
        "empty",
        "missing_gt.png",
    ]
    reasons += ["label '7'", "says authentic"]
    for row, reason in zip(rows, reasons, strict=True):
        assert reason in row["reason"], row
    assert rows[0]["path"].endswith("missing.png")


def test_strict_makes_the_first_bad_line_an_error_and_leaves_nothing(folder, capsys):
    edit_list(folder, lambda lines: lines.append("missing.png,,0"))
    arguments = [f"--paths_file={folder / 'list.csv'}", f"--out={folder / 'out'}"]
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--strict", "--workers=1"])
    assert caught.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "line 14" in error and "no such file" in error
    with pytest.raises(InputError, match="line 14: .*no such file"):
        build_here(folder, strict=True, workers=2)
    assert not (folder / "out").exists()


def test_nothing_usable_is_an_error_that_leaves_nothing(folder):
    (folder / "list.csv").write_text("a.png None 0\nb.png None 1\n")
    with pytest.raises(InputError, match="none of 2 lines can be used; .* line 1: no"):
        build_here(folder)
    (folder / "list.csv").write_text("a.png 0\n")
    with pytest.raises(InputError, match="none of 1 lines"):
        build_here(folder)
    assert not (folder / "out").exists()


def test_mask_of_another_size_is_fitted_counted_and_kept(folder, capsys):
    big = np.zeros((42, 60), np.uint8)
    big[10:30, 4:22] = 255
    Image.fromarray(big).save(folder / "1_gt.png")
    manifest = build_here(folder)
    assert manifest["warnings"] == {"mask_size": [3]}
    assert "mask of another size" in capsys.readouterr().out
    example = examples(folder / "out")[1]
    assert example["mask"].shape == (21, 30, 1)
    np.testing.assert_array_equal(example["original_mask"], big[::2, ::2])
    record = records.RecordSource(folder / "out")[1]
    assert imagecodecs.png_encode(big, level=6) in record


def test_oddities_are_counted(folder):
    Image.fromarray(np.zeros((21, 30), np.uint8)).save(folder / "1_gt.png")

    def edit(lines):
        lines += ["2.png,,1", "0.png,,0"]

    edit_list(folder, edit)
    manifest = build_here(folder)
    assert manifest["warnings"] == {
        "empty_mask": [3],
        "no_mask": [14],
        "duplicate": [14, 15],
    }
    stored = examples(folder / "out")
    assert stored[1]["has_mask"] and not stored[1]["mask"].any()
    assert not stored[12]["has_mask"] and stored[12]["label"] == 1


def test_one_class_alone_is_warned_about(folder, capsys):
    (folder / "list.csv").write_text("0.png None 0\n3.png None 0\n")
    assert build_here(folder)["warnings"] == {"one_class": [1]}
    assert "balanced training needs both: class 1" in capsys.readouterr().out


def test_inverted_masks_and_prefixes(folder):
    region = np.full((21, 30), 255, np.uint8)
    region[2:9, 3:8] = 0
    Image.fromarray(region).save(folder / "1_gt.png")
    (folder / "list.csv").write_text("/old/1.png /old/1_gt.png 1\n")
    build_here(folder, mask_inverted=True, replace=[f"/old/={folder}/"])
    example = examples(folder / "out")[0]
    np.testing.assert_array_equal(example["original_mask"], 255 - region)
    assert example["name"] == "1.png"


def test_second_run_skips_and_other_settings_are_refused(folder, capsys):
    first = build_here(folder)
    stamp = (folder / "out" / "manifest.json").stat().st_mtime_ns
    assert build_here(folder) == first
    assert "built already (12 examples" in capsys.readouterr().out
    assert (folder / "out" / "manifest.json").stat().st_mtime_ns == stamp
    with pytest.raises(InputError, match="other settings .*storage 'original'"):
        build_here(folder, storage="resized")
    with (folder / "0.png").open("ab") as file:
        file.write(b"more")
    with pytest.raises(InputError, match="files of other sizes"):
        build_here(folder)
    edit_list(folder, lambda lines: lines.pop())
    with pytest.raises(InputError, match="another list"):
        build_here(folder)


def slow_build(folder) -> list[str]:
    """A command that builds with two workers, each image taking 50 ms."""
    script = folder / "slow.py"
    script.write_text(
        "import sys, time\n"
        "from sdfl_jax.data import images\n"
        "from sdfl_jax.data.build.builder import build\n"
        "read = images.read_image\n"
        "def slow(*args):\n"
        "    time.sleep(0.05)\n"
        "    return read(*args)\n"
        "images.read_image = slow  # spawned workers import this file as well\n"
        "if __name__ == '__main__':\n"
        "    build(sys.argv[1], sys.argv[2], workers=2, lines_per_shard=8)\n"
    )
    return [sys.executable, str(script), str(folder / "list.csv"), str(folder / "out")]


@pytest.fixture
def long_list(folder):
    """Six hundred lines, which a slow build takes fifteen seconds for."""
    edit_list(folder, lambda lines: lines.extend(lines[1:] * 49))
    return folder


def test_build_killed_midway_resumes_to_the_same_bytes(long_list):
    folder, out = long_list, long_list / "out"
    build_here(folder, "whole", lines_per_shard=8)
    command = slow_build(folder)
    run = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(out.glob("*.array_record.json"))) < 2:
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()

    with pytest.raises(InputError, match="unfinished"):
        records.load_manifest(out)
    with pytest.raises(InputError, match="unfinished build with other settings"):
        build(folder / "list.csv", out, mask_inverted=True)
    time.sleep(0.3)  # the workers notice that they are alone
    # A shard whose note was not written yet counts as missing.
    noted = [path.with_suffix("") for path in out.glob("*.array_record.json")]
    finished = {path: path.stat().st_mtime_ns for path in noted}
    assert 2 <= len(finished) < 75  # of all: a busy machine looks late
    leftovers = content(out)
    time.sleep(0.3)
    assert content(out) == leftovers  # and have stopped writing

    build_here(folder, lines_per_shard=8)
    assert content(out) == content(folder / "whole")
    assert all(path.stat().st_mtime_ns == at for path, at in finished.items())


def test_two_builds_at_once_are_one_line(folder):
    with files.locked_output(folder / "out"):
        with pytest.raises(
            InputError, match=f"out: in use by process {os.getpid()} on"
        ):
            build_here(folder)
        assert not (folder / "out").exists()
    build_here(folder)
    assert not list(folder.glob(".*"))


def test_build_killed_between_manifest_and_tidying_counts_as_done(folder, monkeypatch):
    build_here(folder, "whole")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(building, "_tidy", killed)
        with pytest.raises(KeyboardInterrupt):
            build_here(folder)
    build_here(folder)
    assert content(folder / "out") == content(folder / "whole")


def test_build_killed_at_any_rename_resumes_to_the_same_bytes(folder):
    """Before and after each file that gets its name, by SIGKILL, and all over again."""
    build_here(folder, "whole", lines_per_shard=3)
    script = folder / "killed.py"
    script.write_text(
        "import os, signal, sys\n"
        "from sdfl_jax.data.build.builder import build\n"
        "replace, calls, kill_at, after = os.replace, 0, 0, False\n"
        "def killing(*paths):\n"
        "    global calls\n"
        "    calls += 1\n"
        "    if calls == kill_at and not after:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    replace(*paths)\n"
        "    if calls == kill_at:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.replace = killing\n"
        "for kill_at in range(1, 12):\n"
        "    for after in (False, True):\n"
        "        out = f'{sys.argv[2]}/{kill_at}{after}'\n"
        "        for again in range(3):  # the second time less is left to do\n"
        "            child = os.fork()\n"
        "            if not child:\n"
        "                kill_at = kill_at if again < 2 else 0\n"
        "                build(sys.argv[1], out, lines_per_shard=3, progress=False)\n"
        "                os._exit(0)\n"
        "            status = os.waitpid(child, 0)[1]\n"
        "            assert again == 1 or status == (signal.SIGKILL, 0, 0)[again]\n"
    )
    command = [sys.executable, script, folder / "list.csv", folder / "outs"]
    subprocess.run(command, env=environment(), check=True, capture_output=True)
    outs = list((folder / "outs").glob("[0-9]*"))  # a lock may stay, and does no harm
    assert len(outs) == 22
    for out in outs:
        assert content(out) == content(folder / "whole"), out


def test_shard_without_a_usable_line_is_left_out(folder):
    def edit(lines):
        lines[1:1] = [f"missing{index}.png,,0" for index in range(5)]

    edit_list(folder, edit)
    manifest = build_here(folder)
    assert [shard["examples"] for shard in manifest["shards"]] == [5, 5, 2]
    assert len(list((folder / "out").glob("*.array_record"))) == 3
    assert len(examples(folder / "out")) == 12


def test_disk_too_small_is_told_before_anything_is_written(folder, monkeypatch):
    usage = shutil.disk_usage(folder)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match="the shards need about .* MB free"):
        build_here(folder)
    assert not (folder / "out").exists()


def test_full_disk_is_one_line_and_leaves_no_half_shard(folder):
    """A limit on the size of files stands for the disk's end."""
    command = (
        "import resource, signal, sys\n"
        "from sdfl_jax.data.build.__main__ import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "main(sys.argv[1:])\n"
    )
    arguments = [f"--paths_file={folder / 'list.csv'}", f"--out={folder / 'out'}"]
    arguments += ["--storage=resized", "--image_size=200", "--workers=1"]
    run = subprocess.run(
        [sys.executable, "-c", command, *arguments],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert run.stderr.strip().splitlines()[-1].endswith("the disk is full.")
    assert [path.name for path in (folder / "out").iterdir()] == ["unfinished.json"]


def test_resized_storage_prints_its_size_first(folder, capsys):
    build_here(folder, storage="resized", image_size=100)
    assert "about 0.4 MB on disk (12 images of 100x100 raw)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (["--image_size=0"], "--image_size=0"),
        (["--workers=-1"], "--workers=-1"),
        (["--replace=x"], "OLD=NEW"),
        (["--paths_file=none.txt"], "no such list"),
        (["--out=list.csv"], "a file, where a folder"),
    ],
)
def test_wrong_arguments_are_one_line(folder, arguments, reason, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as caught:
        main(["--paths_file=list.csv", "--out=out", "--workers=1", *arguments])
    error = capsys.readouterr().err.strip()
    assert caught.value.code == 2 and reason in error and "\n" not in error


def test_folders_that_hold_no_shards_are_one_line(folder):
    with pytest.raises(InputError, match="no such folder"):
        records.load_manifest(folder / "none")
    with pytest.raises(InputError, match="not a folder of shards"):
        records.load_manifest(folder)
    with pytest.raises(InputError, match="no shard fits"):
        records.RecordSource(folder / "*.array_record")

    build_here(folder)
    path = folder / "out" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"version": records.VERSION + 1}))
    with pytest.raises(InputError, match="version 2 where this program reads 1"):
        records.load_manifest(folder / "out")
    path.write_text("{")
    with pytest.raises(InputError, match="damaged"):
        records.load_manifest(folder / "out")


def test_damaged_shards_are_one_line(folder):
    manifest = build_here(folder)
    shard = folder / "out" / manifest["shards"][0]["file"]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    with pytest.raises(InputError, match="where the manifest says"):
        records.load_manifest(folder / "out")
    junk = bytearray(whole)
    middle = len(junk) // 2
    junk[middle : middle + 50] = bytes(50)
    shard.write_bytes(junk)
    with pytest.raises(InputError, match="cannot be read"):
        source = records.RecordSource(folder / "out")
        for index in range(5):
            source[index]


def test_pattern_of_shards_reads_in_order(folder):
    build_here(folder)
    source = records.RecordSource(str(folder / "out" / "data-*.array_record"))
    names = [records.decode(source[index])["name"] for index in range(len(source))]
    assert names == [f"{index}.png" for index in range(12)]
