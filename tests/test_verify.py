"""Finished builds are read again; what is damaged is named."""

import json

import pytest

from sdfl_jax.data.build.__main__ import main
from tests.pictures import build_here, make_list


@pytest.fixture
def folder(tmp_path):
    make_list(tmp_path)
    return tmp_path


def verify_here(folder, capsys, *options) -> tuple[int, str]:
    """Exit status and what is printed."""
    with pytest.raises(SystemExit) as caught:
        main(["--verify", f"--out={folder / 'out'}", "--workers=0", *options])
    output = capsys.readouterr()
    return caught.value.code, output.out + output.err.splitlines()[-1]


@pytest.mark.parametrize("storage", ["original", "resized"])
def test_whole_builds_are_verified(folder, storage, capsys):
    build_here(folder, storage=storage, image_size=16)
    capsys.readouterr()
    status, text = verify_here(folder, capsys)
    assert status == 0 and "12 examples in 3 shards are whole" in text
    status, text = verify_here(folder, capsys, "--workers=2")
    assert status == 0 and "12 examples in 3 shards are whole" in text


def test_damaged_shards_are_named(folder, capsys):
    manifest = build_here(folder)
    first, second, third = (
        folder / "out" / shard["file"] for shard in manifest["shards"]
    )
    first.write_bytes(first.read_bytes()[:-10])
    junk = bytearray(second.read_bytes())
    junk[junk.index(b"\x89PNG") + 200] ^= 1
    second.write_bytes(junk)
    third.unlink()
    for option in ("--workers=0", "--workers=2"):
        status, text = verify_here(folder, capsys, option)
        assert status == 1
        assert f"{first.name}: {first.stat().st_size} bytes where" in text
        assert f"{second.name}: its content has changed" in text
        assert f"{second.name}: record " in text
        assert f"{third.name}: missing." in text


@pytest.mark.parametrize(
    "edit, reason",
    [
        (lambda m: m["classes"].update({"0": 5}), "manifest.json: classes"),
        (lambda m: m.update(examples=13), "manifest.json: examples"),
        (lambda m: m["sources"].pop("one"), "manifest.json: sources"),
        (lambda m: m.update(kinds={}), "manifest.json: kinds"),
        (lambda m: m["shards"][0].update(labels="11101"), "record 0: label 0 where"),
        (lambda m: m["shards"][1].update(examples=4), "5 records where"),
        (lambda m: m["shards"].pop(), "not in the manifest"),
    ],
)
def test_manifest_that_does_not_fit_is_told(folder, edit, reason, capsys):
    build_here(folder)
    path = folder / "out" / "manifest.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))
    status, text = verify_here(folder, capsys)
    assert status == 1 and reason in text


def test_only_finished_builds_can_be_verified(folder, capsys):
    assert verify_here(folder, capsys)[0] == 2
    (folder / "out").mkdir()
    status, text = verify_here(folder, capsys)
    assert status == 2 and "not a folder of shards" in text
