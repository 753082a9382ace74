"""Every layout on a small tree of the shape its data set has."""

import csv
import json
import os
import re
import shutil
from collections import defaultdict
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
from PIL import Image

from sdfl_jax.data import records, videos
from sdfl_jax.data.audit import __main__ as audit_command
from sdfl_jax.data.build.builder import build
from sdfl_jax.data.images import read_image, read_mask
from sdfl_jax.data.layouts import LAYOUTS
from sdfl_jax.data.layouts.__main__ import lay_out, main
from sdfl_jax.data.layouts.common import Item
from sdfl_jax.data.layouts.dealing import deal, parse_ratios
from sdfl_jax.data.layouts.faces import spread
from sdfl_jax.data.lists import read_list
from sdfl_jax.errors import InputError
from tests.fuzz import heic

SPLITS = ("train", "val", "test")


def picture(path: Path, seed=0, size=(24, 32)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def region(size=(24, 32), invert=False):
    mask = np.zeros(size, np.uint8)
    mask[4:12, 6:20] = 255
    return 255 - mask if invert else mask


def mask_file(path: Path, size=(24, 32), invert=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(region(size, invert)).save(path)


def run(name, root, **options):
    options = {"out": root.parent / "out", "progress": False} | options
    out = options.pop("out")
    lay_out(name, root, out, **options)
    return rows(out)


def rows(out) -> list[dict]:
    found = []
    for split in SPLITS:
        if (out / f"paths_{split}.csv").exists():
            with open(out / f"paths_{split}.csv", newline="") as file:
                found += [row | {"split": split} for row in csv.DictReader(file)]
    return found


def rejected(out) -> dict[str, str]:
    """Reasons by file name."""
    with open(out / "rejected.csv", newline="") as file:
        return {Path(row["path"]).name: row["reason"] for row in csv.DictReader(file)}


def by_name(found) -> dict[str, dict]:
    return {Path(row["image"]).name: row for row in found}


def assert_groups_are_whole(found):
    splits = defaultdict(set)
    for row in found:
        if row["group"]:
            splits[row["group"]].add(row["split"])
    assert all(len(names) == 1 for names in splits.values())


def assert_build_reads(out):
    """The lists give shards with no flag, and every mask fits its label."""
    for split in SPLITS:
        path = out / f"paths_{split}.csv"
        if not path.exists():
            continue
        entries, bad = read_list(path)
        assert entries and not bad
        manifest = build(path, out / "shards" / split, progress=False)
        assert manifest["rejected"] == 0
        assert manifest["examples"] == len(entries)
        assert not {"mask_size", "empty_mask"} & manifest["warnings"].keys()
        shutil.rmtree(out / "shards")


@pytest.fixture
def casia(tmp_path):
    """20 photographs, a splice of 0 and 1, one of 1 and 2, copy-moves of 3 to 14."""
    root = tmp_path / "set"
    for index in range(20):
        picture(root / "Au" / f"Au_cha_{index:05d}.jpg", index)
    names = ["Tp_D_CRN_S_N_cha00000_cha00001_11741", "Tp_D_NRN_M_B_cha00001_cha00002_2"]
    names += [f"Tp_S_NRN_S_N_cha{i:05d}_cha{i:05d}_{i}" for i in range(3, 15)]
    for index, name in enumerate(names):
        picture(root / "Tp" / f"{name}{('.tif', '.jpg', '.bmp')[index % 3]}", index)
        mask_file(root / "CASIA 2 Groundtruth" / f"{name}_gt.png")
    return root


def test_casia2_joins_all_that_stems_from_one_photograph(casia):
    found = run("casia2", casia)
    out = casia.parent / "out"
    assert len(found) == 34 and not rejected(out)
    named = by_name(found)
    chain = [f"Au_cha_0000{i}.jpg" for i in range(3)]
    chain += ["Tp_D_CRN_S_N_cha00000_cha00001_11741.tif"]
    chain += ["Tp_D_NRN_M_B_cha00001_cha00002_2.jpg"]
    assert {named[name]["group"] for name in chain} == {"casia/cha00000"}
    assert_groups_are_whole(found)
    assert named[chain[3]]["kind"] == "splice"
    assert named["Tp_S_NRN_S_N_cha00003_cha00003_3.bmp"]["kind"] == "copymove"
    counts = [sum(row["split"] == split for row in found) for split in SPLITS]
    assert counts[0] in (26, 27, 28) and min(counts) >= 3
    assert_build_reads(out)


def test_seed_decides_and_workers_change_nothing(casia, monkeypatch):
    monkeypatch.setattr("sdfl_jax.data.layouts.__main__.CHUNK", 8)
    lists = [
        run("casia2", casia, out=casia.parent / f"out{i}", **options)
        for i, options in enumerate([{}, {"workers": 2}, {"seed": 1}])
    ]
    assert lists[0] == lists[1] != lists[2]


def test_what_does_not_fit_is_listed_with_its_reason(casia, capsys):
    names = sorted(path.stem for path in (casia / "Tp").iterdir())
    masks = casia / "CASIA 2 Groundtruth"
    (masks / f"{names[0]}_gt.png").unlink()
    mask_file(masks / f"{names[1]}_gt.png", size=(32, 24))
    mask_file(masks / "Tp_D_unknown_gt.png")
    (casia / "Au" / "Au_ani_00001.jpg").write_text("<html>")
    mask_file(masks / "twice" / f"{names[2]}_gt.png")
    found = run("casia2", casia)
    reasons = rejected(casia.parent / "out").items()
    assert {Path(name).stem: reason.split(":")[0] for name, reason in reasons} == {
        names[0]: "no mask",
        names[1]: "wrong size",
        names[2]: "several masks",
        "Tp_D_unknown_gt": "mask without image",
        "Au_ani_00001": "unreadable",
    }
    assert len(found) == 31
    told = capsys.readouterr().out
    assert "5 rejected (1 " in told and "see rejected.csv" in told
    with pytest.raises(InputError, match=r"casia2: 5 rejected .*the first: .*no mask"):
        run("casia2", casia, strict=True)


def test_sizes_are_those_of_upright_images(tmp_path):
    root = tmp_path / "set"
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    for name, suffix in (("a", "jpg"), ("b", "png"), ("c", "tif"), ("d", "jpg")):
        (root / "Tp").mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(0).integers(0, 256, (32, 24, 3), np.uint8)
        Image.fromarray(pixels).save(root / "Tp" / f"{name}.{suffix}", exif=exif)
        assert read_image(root / "Tp" / f"{name}.{suffix}").shape == (24, 32, 3)
        mask_file(root / "Gt" / f"{name}.png", (30, 24) if name == "d" else (24, 32))
    assert len(run("imdlbenco_mani", root)) == 3
    assert rejected(tmp_path / "out").keys() == {"d.jpg"}
    assert_build_reads(tmp_path / "out")


def test_masks_drawn_on_the_stored_pixels_fit_as_they_do_in_a_build(tmp_path, capsys):
    root, exif = tmp_path / "set", Image.Exif()
    (root / "Tp").mkdir(parents=True)
    stored = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    for name, orientation in (("quarter", 6), ("half", 3), ("other", 8)):
        exif[0x0112] = orientation
        Image.fromarray(stored).save(root / "Tp" / f"{name}.png", exif=exif)
        mask_file(root / "Gt" / f"{name}.png", (23 if name == "other" else 24, 32))
    assert by_name(run("imdlbenco_mani", root)).keys() == {"quarter.png", "half.png"}
    told = capsys.readouterr().out
    assert "drawn on the pixels as stored (turned with it): 1x" in told
    assert "(taken as after; --mask_as_stored turns it): 1x" in told
    assert rejected(tmp_path / "out")["other.png"].startswith("wrong size: mask 32x23")
    assert_build_reads(tmp_path / "out")


def test_converted_masks_turn_with_their_images_in_a_build(tmp_path):
    root, exif = tmp_path / "celebahq", Image.Exif()
    for name in "abcdefghij":
        picture(root / "lama" / "images" / f"{name}.png")
        mask_file(root / "lama" / "masks" / f"{name}.png", invert=True)
    exif[0x0112] = 6
    stored = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    Image.fromarray(stored).save(root / "lama" / "images" / "a.png", exif=exif)
    row = by_name(run("celebahq_inpainting", root))["a.png"]
    path = tmp_path / "out" / f"paths_{row['split']}.csv"
    build(path, tmp_path / "shards", progress=False)
    source = records.RecordSource(tmp_path / "shards")
    found = [records.decode(source[i]) for i in range(len(source))]
    (example,) = [e for e in found if e["name"].endswith("/a.png")]
    np.testing.assert_array_equal(example["mask"][..., 0], np.rot90(region(), -1))


def test_images_of_phones_are_laid_out(tmp_path):
    root = tmp_path / "set"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    (root / "Tp").mkdir(parents=True)
    (root / "Tp" / "a.heic").write_bytes(heic(pixels))
    (root / "Tp" / "b.jxl").write_bytes(imagecodecs.jpegxl_encode(pixels))
    for name in "ab":
        mask_file(root / "Gt" / f"{name}.png", (64, 96))
    assert by_name(run("imdlbenco_mani", root)).keys() == {"a.heic", "b.jxl"}
    assert_build_reads(tmp_path / "out")


def test_missing_folders_are_told(casia, capsys):
    shutil.rmtree(casia / "Au")
    assert {row["label"] for row in run("casia2", casia)} == {"1"}
    assert rejected(casia.parent / "out")["Au"].startswith("folder missing")
    assert "1 folder missing" in capsys.readouterr().out
    shutil.rmtree(casia / "Tp")
    with pytest.raises(InputError, match="nothing to use for casia2.*Expected: CASIA"):
        run("casia2", casia)
    with pytest.raises(InputError, match="no such folder"):
        run("casia2", casia / "nowhere")


def test_published_lists_decide_as_they_are(casia, capsys):
    lists = casia.parent / "lists"
    lists.mkdir()
    line = "./data/CASIA/Tp/{0}.tif mask None 1\n".format
    first, second = sorted(path.stem for path in (casia / "Tp").iterdir())[:2]
    (lists / "train_all.txt").write_text(line(first) + line(second) + line("absent"))
    (lists / "test.txt").write_text(line(first) * 2)
    found = run("casia2", casia, split="published", lists=lists)
    got = sorted((row["split"], Path(row["image"]).stem) for row in found)
    assert got == [("test", first), ("train", first), ("train", second)]
    told = capsys.readouterr().out
    assert "32 not published" in told and "Warning: 1 groups" in told
    with pytest.raises(InputError, match="--lists=DIR"):
        run("casia2", casia, split="published")


@pytest.mark.parametrize("masks", ["Gt", "mask/Tp", "CASIA 1.0 groundtruth"])
def test_casia1_masks_lie_in_folders_of_the_same_names(tmp_path, masks):
    root = tmp_path / "set"
    for folder, name, suffix in (
        ("Sp", "Sp_D_CND_A_pla0005_pla0023_0281", "_gt"),
        ("CM", "Sp_S_CND_A_ani0016_ani0016_0196", ""),
    ):
        picture(root / "Tp" / folder / f"{name}.jpg")
        mask_file(root / masks / folder / f"{name}{suffix}.png")
    picture(root / "Au" / "Au_pla_00023.jpg")
    found = by_name(run("casia1", root, split="published"))
    assert {name: row["kind"] for name, row in found.items()} == {
        "Sp_D_CND_A_pla0005_pla0023_0281.jpg": "splice",
        "Sp_S_CND_A_ani0016_ani0016_0196.jpg": "copymove",
        "Au_pla_00023.jpg": "",
    }
    assert {row["split"] for row in found.values()} == {"test"}
    assert_build_reads(tmp_path / "out")


def test_columbia_s_colours_become_white_on_black(tmp_path):
    root = tmp_path / "set"
    size = (48, 64)
    colours = np.zeros((*size, 3), np.uint8)
    colours[..., 0] = 200
    colours[:24, :32] = (0, 255, 0)
    colours[8:16, 8:16] = (0, 200, 0)
    colours[40:, 40:] = (255, 0, 0)
    for index in range(1, 4):
        name = f"canong3_canonxt_sub_{index:02d}"
        picture(root / "4cam_splc" / f"{name}.tif", index, size)
        path = root / "4cam_splc" / "edgemask" / f"{name}_edgemask.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(imagecodecs.jpeg8_encode(colours, level=90))
        picture(root / "4cam_auth" / f"nikond70_{index:02d}_sub_01.tif", index, size)
    picture(root / "4cam_auth" / "edgemask" / "nikond70_01_sub_01_edgemask.jpg")
    found = run("columbia", root)
    assert len(found) == 6 and not rejected(tmp_path / "out")
    assert_groups_are_whole(found)
    row = by_name(found)["canong3_canonxt_sub_02.tif"]
    mask = read_mask(tmp_path / "out" / row["mask"])[..., 0]
    expected = np.zeros(size, np.uint8)
    expected[:24, :32] = 255
    assert set(np.unique(mask)) == {0, 255}
    assert (mask != expected).mean() < 0.02  # JPEG blurs the border
    assert (mask == expected)[:22, :30].all() and (mask == expected)[26:].all()
    assert_build_reads(tmp_path / "out")


def test_coverage_pairs_stay_together(tmp_path):
    root = tmp_path / "set"
    for index in range(1, 11):
        picture(root / "image" / f"{index}.tif", index)
        picture(root / "image" / f"{index}t.tif", index)
        for which in ("forged", "copy", "paste"):
            size = (20, 32) if (index, which) == (4, "forged") else (24, 32)
            mask_file(root / "mask" / f"{index}{which}.tif", size)
    found = run("coverage", root)
    assert len(found) == 19
    assert_groups_are_whole(found)
    assert rejected(tmp_path / "out")["4t.tif"].startswith("wrong size: mask 32x20")
    assert by_name(found)["7t.tif"]["mask"].endswith("7forged.tif")
    assert by_name(found)["7t.tif"]["group"] == by_name(found)["7.tif"]["group"]
    counts = [sum(row["split"] == split for row in found) for split in SPLITS]
    assert counts[0] in (15, 16) and counts[1] in (1, 2) and counts[2] in (1, 2)
    assert_build_reads(tmp_path / "out")


def test_nist16_reads_its_tables_and_turns_its_masks(tmp_path, capsys):
    root = tmp_path / "NC2016_Test0601"
    header = "ProbeFileName|ProbeMaskFileName|DonorFileName|IsTarget|BaseFileName"
    header += "|IsManipulationTypeRemoval|IsManipulationTypeSplice\n"
    folder = "reference/manipulation/"
    lines = ["world/w1.jpg|||N|world/w1.jpg|N|N", "world/w2.jpg|||N|world/w2.jpg|N|N"]
    for name, base, donor, removal in (
        ("p1", "w1", "", "Y"),
        ("p2", "w1", "world/w2.jpg", "N"),
        ("p3", "w3", "", "Y"),
        ("p4", "w4", "", "Y"),
    ):
        splice = "N" if removal == "Y" else "Y"
        line = f"probe/{name}.jpg|{folder}mask/{name}.png|{donor}|Y|world/{base}.jpg"
        lines.append(f"{line}|{removal}|{splice}")
        picture(root / "probe" / f"{name}.jpg")
        if name != "p4":
            mask_file(root / folder / "mask" / f"{name}.png", invert=True)
    lines.append("probe/p9.jpg|||N|world/w9.jpg|N|N")
    for name in ("w1", "w2"):
        picture(root / "world" / f"{name}.jpg")
    mask_file(root / folder / "mask" / "stray.png")
    (root / folder / "NC2016-manipulation-ref.csv").write_text(
        header + "\n".join(lines) + "\n"
    )
    (root / "reference/removal").mkdir()
    (root / "reference/removal/NC2016-removal-ref.csv").write_text(
        header + lines[3].replace("|Y|world", "|N|world") + "\n"
    )
    found = by_name(run("nist16", root))
    assert {name: row["label"] for name, row in found.items()} == {
        **dict.fromkeys(("w1.jpg", "w2.jpg"), "0"),
        **dict.fromkeys(("p1.jpg", "p2.jpg", "p3.jpg"), "1"),
    }
    assert found["p1.jpg"]["kind"] == "removal" and found["p2.jpg"]["kind"] == "splice"
    joined = {found[n]["group"] for n in ("w1.jpg", "w2.jpg", "p1.jpg", "p2.jpg")}
    assert len(joined) == 1 and found["p3.jpg"]["group"] not in joined
    reasons = rejected(tmp_path / "out")
    assert {name: reason.split(":")[0] for name, reason in reasons.items()} == {
        "p4.jpg": "no mask",
        "p9.jpg": "no image",
        "stray.png": "mask without image",
    }
    mask = read_mask(tmp_path / "out" / found["p1.jpg"]["mask"])[..., 0]
    np.testing.assert_array_equal(mask, region())
    assert "Warning" not in capsys.readouterr().out
    assert_build_reads(tmp_path / "out")
    (root / folder / "NC2016-manipulation-ref.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="no columns ProbeFileName"):
        run("nist16", root)


def _imd2020(root):
    picture(root / "1a1ogs" / "1a1ogs_orig.jpg")
    for name in ("c8tf5mq_0", "c8tu9ab_0"):
        picture(root / "1a1ogs" / f"{name}.png")
        mask_file(root / "1a1ogs" / f"{name}_mask.png")


def _fantastic_reality(root):
    picture(root / "dataset" / "ColorRealImages" / "1.jpg")
    picture(root / "dataset" / "ColorFakeImages" / "2.jpg")
    path = root / "dataset" / "SegmentationFake" / "2.npz"
    path.parent.mkdir()
    np.savez(path, (region() // 255 * 7)[..., None])


def _tampcoco(root):
    for name in ("cm", "sp", "bcm", "bcmc"):
        picture(root / f"{name}_images" / f"{name}_1.jpg")
        if name != "bcmc":
            mask_file(root / f"{name}_masks" / f"{name}_1.png")
    mask_file(root / "bcm_masks" / "bcmc_1.png")


def _compraise(root):
    picture(root / "r000da54ft.jpg")


def _dso1(root):
    picture(root / "DSO-1" / "normal-1.png")
    picture(root / "DSO-1" / "splicing-01.png")
    mask_file(root / "DSO-1-Fake-Images-Masks" / "splicing-01.png", invert=True)


def _cocoglide(root):
    picture(root / "real" / "dining table_114871.png")
    picture(root / "fake" / "glide_inpainting_val2017_114871_up.png")
    mask_file(root / "mask" / "dining table_114871_mask.png")


def _opensdi(root):
    pytest.importorskip("pyarrow")
    from pyarrow import Table, parquet

    picture(root / "x.png")
    mask_file(root / "m.png")
    image, mask = ((root / f"{n}.png").read_bytes() for n in "xm")
    rows = [
        {"key": "a", "image": {"bytes": image}, "mask": {"bytes": mask}, "label": 1},
        {"key": "b", "image": {"bytes": image}, "mask": None, "label": 0},
    ]
    (root / "test").mkdir()
    parquet.write_table(Table.from_pylist(rows), root / "test" / "sd15-00000.parquet")


def _autosplice(root):
    picture(root / "Authentic" / "71695.jpg")
    for quality in (100, 90, 75):
        picture(root / f"Forged_JPEG{quality}" / "71695_0.jpg")
    mask_file(root / "Mask" / "71695_mask.png")


def _korus(root):
    camera = root / "Sony_A57"
    picture(camera / "pristine" / "DSC04977.TIF")
    picture(camera / "tampered-realistic" / "DSC04977.TIF")
    levels = region()
    levels[:4] = 128  # changed, but not in what it shows
    (camera / "ground-truth").mkdir()
    Image.fromarray(levels).save(camera / "ground-truth" / "DSC04977.PNG")


def _misd(root):
    name = "Sp_D_ani_00010_cha_00065_nat_00093_146"
    picture(root / "authentic" / "Au_ani_00010.jpg")
    picture(root / "manipulated" / f"{name}.jpg")
    mask_file(root / "masks" / f"{name}.png")


def _grip(root):
    picture(root / "images" / "IMG_C01_001.png")
    picture(root / "forged_images" / "TP_C01_001_copy.png")
    mask_file(root / "forged_images" / "TP_C01_001_gt.png")


FIELD = {  # authentic, manipulated, kinds, groups
    "imd2020": (_imd2020, 1, 2, {""}, 1),
    "fantastic_reality": (_fantastic_reality, 1, 1, {"splice"}, 0),
    "tampcoco": (_tampcoco, 0, 4, {"copymove", "splice", "bcm", "bcmc"}, 0),
    "compraise": (_compraise, 1, 0, set(), 0),
    "dso1": (_dso1, 1, 1, {"splice"}, 0),
    "cocoglide": (_cocoglide, 1, 1, {"inpainting"}, 1),
    "opensdi": (_opensdi, 1, 1, {"sd15"}, 0),
    "autosplice": (_autosplice, 1, 3, {"jpeg100", "jpeg90", "jpeg75"}, 1),
    "korus": (_korus, 1, 1, {""}, 1),
    "misd": (_misd, 1, 1, {"splice"}, 1),
    "grip": (_grip, 1, 1, {"copymove"}, 1),
}


@pytest.mark.parametrize("name", FIELD)
def test_sets_of_the_field_lie_as_their_publishers_say(tmp_path, name):
    make, authentic, manipulated, kinds, groups = FIELD[name]
    make(tmp_path / "set")
    found = run(name, tmp_path / "set", split="0:0:1")
    if name == "tampcoco":  # bcmc's masks are bcm's, and each pairs with its own
        assert set(rejected(tmp_path / "out")) <= {"bcm_1.png", "bcmc_1.png"}
    else:
        assert not rejected(tmp_path / "out")
    assert [sum(row["label"] == x for row in found) for x in "01"] == [
        authentic,
        manipulated,
    ]
    assert {row["kind"] for row in found if row["label"] == "1"} == kinds
    assert len({row["group"] for row in found} - {""}) == groups
    for row in found:
        if row["label"] == "1":
            mask = read_mask(tmp_path / "out" / row["mask"])[..., 0]
            np.testing.assert_array_equal(mask, region())
    assert_build_reads(tmp_path / "out")


def test_help_tells_which_layouts_never_met_their_set(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out
    line = lambda name: re.search(rf"^  {name} .*$", told, re.M)[0]
    assert "not tried on the set itself" in line("korus")
    assert "not tried" not in line("misd") + line("paths_file")


def test_cifake_keeps_its_test_images_and_validates_on_some_of_train(tmp_path):
    root = tmp_path / "set"
    for split, count in (("train", 18), ("test", 4)):
        for name in ("REAL", "FAKE"):
            for index in range(count):
                path = root / split / name / f"{index:04d} (10).jpg"
                picture(path, index, (32, 32))
    found = run("cifake", root)
    counts = defaultdict(int)
    for row in found:
        counts[row["split"], row["label"]] += 1
        assert ("/test/" in row["image"]) == (row["split"] == "test")
        assert row["label"] == str(int("FAKE" in row["image"]))
    assert dict(counts) == {
        (split, label): count
        for split, count in (("train", 16), ("val", 2), ("test", 4))
        for label in "01"
    }
    assert_build_reads(tmp_path / "out")
    dealt = run("cifake", root, split="2:1:1")
    assert [sum(r["split"] == s for r in dealt) for s in SPLITS] == [22, 11, 11]
    study = run("cifake", root, split="study")
    authentic = [r["split"] for r in study if r["label"] == "0"]
    manipulated = [r["split"] for r in study if r["label"] == "1"]
    assert [authentic.count(s) for s in SPLITS] == [14, 4, 4]
    assert [manipulated.count(s) for s in SPLITS] == [11, 4, 7]


def test_faces140k_keeps_its_three_splits(tmp_path):
    root = tmp_path / "real_vs_fake" / "real-vs-fake"
    for index, split in enumerate(("train", "valid", "test")):
        for name in ("real", "fake"):
            picture(root / split / name / f"{index}.jpg")
    found = run("faces140k", tmp_path / "real_vs_fake", out=tmp_path / "out")
    assert len(found) == 6
    assert {r["split"] for r in found if "/valid/" in r["image"]} == {"val"}
    shutil.rmtree(root / "test" / "fake")
    with pytest.raises(InputError, match="1 rejected .*test/fake: folder missing"):
        run("faces140k", tmp_path / "real_vs_fake", out=tmp_path / "out", strict=True)


@pytest.mark.parametrize("fake", ["fake", "synthetic"])
def test_real_fake_folders(tmp_path, fake):
    root = tmp_path / "SimpleNet faces"
    for index in range(10):
        picture(root / "real" / f"{index}.png", index)
        picture(root / fake / f"{index}.png", index)
    picture(root / "notes" / "chart.png")
    found = run("real_fake_folders", root)
    assert {(row["label"], row["kind"]) for row in found} == {("0", ""), ("1", fake)}
    assert {row["source"] for row in found} == {"SimpleNet faces"}
    assert {row["mask"] for row in found} == {"None"}
    assert [sum(r["split"] == s for r in found) for s in SPLITS] == [16, 2, 2]
    assert rejected(tmp_path / "out")["chart.png"].startswith("unknown folder")
    assert_build_reads(tmp_path / "out")


def test_celebahq_s_black_regions_become_white(tmp_path):
    root = tmp_path / "celebahq"
    for split, names in (("train", "abcdefgh"), ("valid", "ij"), ("test", "kl")):
        for name in names:
            picture(root / "real" / split / f"{name}.png")
            for generator in ("lama", "repaint-p2-9k", "ldm", "pluralistic"):
                fake = root / "fake" / generator
                picture(fake / "images" / split / f"{name}.png")
                mask_file(fake / "masks" / split / f"{name}.png", invert=True)
    found = run("celebahq_inpainting", root)
    assert len(found) == 60
    assert_groups_are_whole(found)
    assert {row["kind"] for row in found} == {
        *("", "lama", "repaint-p2-9k", "ldm", "pluralistic")
    }
    assert {r["split"] for r in found if "/valid/" in r["image"]} == {"val"}
    manipulated = [row for row in found if row["label"] == "1"]
    masks = [read_mask(tmp_path / "out" / row["mask"]) for row in manipulated]
    assert len(masks) == 48
    assert all((mask[..., 0] == region()).all() for mask in masks)
    assert_build_reads(tmp_path / "out")
    (root / "fake/lama/masks/train/a.png").unlink()
    (root / "fake/ldm/images/train/b.png").unlink()
    run("celebahq_inpainting", root)
    reasons = rejected(tmp_path / "out")
    assert reasons["a.png"].startswith("no mask")
    assert reasons["b.png"].startswith("mask without image")


def test_masks_that_need_no_turning_are_noticed(tmp_path, capsys):
    root = tmp_path / "celebahq"
    for name in "ab":
        picture(root / "lama" / "images" / f"{name}.png")
        mask_file(root / "lama" / "masks" / f"{name}.png")
    run("celebahq_inpainting", root)
    told = capsys.readouterr().out
    assert "Warning: 2 of 2 masks mark more than half" in told


def test_paths_file_keeps_splits_and_mends_what_can_be(tmp_path, capsys):
    root = tmp_path / "lists"
    for index in range(8):
        name = f"Tp_S_N_cha{index:05d}_cha{index:05d}_{index}.png"
        picture(root / "Tp" / name, index)
        picture(root / "Au" / f"Au_cha_{index:05d}.png", index)
        mask_file(root / "mask" / f"{index}.png")
    manipulated = [
        f"Tp/Tp_S_N_cha{i:05d}_cha{i:05d}_{i}.png mask/{i}.png edge/{i}.png 1"
        for i in range(8)
    ]
    authentic = [f"Au/Au_cha_{i:05d}.png None None 0" for i in range(8)]
    train = manipulated[:6] + authentic[2:] + authentic[2:3] + ["Au/x.png None None 5"]
    train += ["Au/y.png None None 0", "Tp/Tp_S_N_cha00000_cha00000_0.png maskx.png 1"]
    (root / "train.txt").write_text("\n".join(train) + "\n")
    (root / "test.txt").write_text("\n".join(manipulated[6:] + authentic[:2]) + "\n")
    found = run("paths_file", root)
    assert [sum(r["split"] == s for r in found) for s in SPLITS] == [12, 0, 4]
    reasons = rejected(tmp_path / "out")
    assert reasons["Au_cha_00002.png"] == "listed twice: in train"
    assert reasons["y.png"].startswith("no image")
    assert reasons["Tp_S_N_cha00000_cha00000_0.png"].startswith("no mask")
    assert sum(reason.startswith("no edge file") for reason in reasons.values()) == 8
    assert reasons["train.txt:14"].startswith("unusable line: label '5'")
    told = capsys.readouterr().out
    assert "Warning: 4 groups" in told and "no image for val" in told
    assert_build_reads(tmp_path / "out")
    found = run("paths_file", root, split="8:1:1")
    assert len(found) == 16
    assert_groups_are_whole(found)
    assert {row["split"] for row in found} == set(SPLITS)
    one = run("paths_file", root / "train.txt", out=tmp_path / "one")
    assert {row["split"] for row in one} == {"train"}
    with pytest.raises(InputError, match="the data set lies there"):
        run("paths_file", root, out=root)


def test_prefixes_of_listed_paths_are_replaced(tmp_path, capsys):
    for index in range(10):
        picture(tmp_path / "here" / f"{index}.png", index)
    text = "".join(f"/gone/{index}.png None None 0\n" for index in range(10))
    (tmp_path / "list.txt").write_text(text)
    replace = f"--replace=/gone={tmp_path / 'here'}"
    arguments = ["paths_file", f"--root={tmp_path / 'list.txt'}", "--workers=0"]
    main([*arguments, f"--out={tmp_path / 'out'}", replace])
    assert len(rows(tmp_path / "out")) == 10 and not rejected(tmp_path / "out")


def test_imdlbenco_json(tmp_path):
    pairs = []
    for index in range(10):
        picture(tmp_path / "all" / "images" / f"{index}.png", index)
        mask_file(tmp_path / "all" / "masks" / f"{index}.png")
        mask = "Negative" if index % 2 else f"masks/{index}.png"
        pairs.append([f"images/{index}.png", mask])
    path = tmp_path / "all" / "mixed.json"
    path.write_text(json.dumps([*pairs, ["images/gone.png", "Negative"], ["odd"]]))
    found = run("imdlbenco_json", path, out=tmp_path / "out")
    named = by_name(found)
    assert len(found) == 10
    assert named["4.png"]["label"] == "1" and named["5.png"]["label"] == "0"
    assert named["4.png"]["mask"].endswith("masks/4.png")
    assert [sum(r["split"] == s for r in found) for s in SPLITS] == [8, 1, 1]
    assert rejected(tmp_path / "out").keys() == {"gone.png", "mixed.json:11"}
    assert_build_reads(tmp_path / "out")
    for text, message in (("{", "no JSON"), ("{}", "a list of")):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            run("imdlbenco_json", path, out=tmp_path / "out")


def test_imdlbenco_mani_goes_by_name_never_by_order(tmp_path):
    root = tmp_path / "set"
    for name in ("a", "b10", "b9", "c"):
        picture(root / "Tp" / f"{name}.jpg")
    for name in ("b10", "b9_gt", "c_mask", "d"):  # sorted, all four would be off
        mask_file(root / "Gt" / f"{name}.png")
    found = by_name(run("imdlbenco_mani", root))
    assert {name: Path(row["mask"]).name for name, row in found.items()} == {
        "b10.jpg": "b10.png",
        "b9.jpg": "b9_gt.png",
        "c.jpg": "c_mask.png",
    }
    reasons = rejected(tmp_path / "out")
    assert reasons["a.jpg"].startswith("no mask")
    assert reasons["d.png"].startswith("mask without image")
    assert_build_reads(tmp_path / "out")


# FaceForensics++.

HEIGHT, WIDTH, FRAMES = 64, 96, 30


def video(path: Path, frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    code = cv2.VideoWriter_fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(path), code, 25, frames[0].shape[1::-1])
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()


def scene(seed) -> np.ndarray:
    """Smooth frames that brighten by two levels each, T H W 3."""
    coarse = np.random.default_rng(seed).integers(20, 120, (4, 6, 3), np.uint8)
    smooth = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return np.stack([smooth + np.uint8(2 * t) for t in range(FRAMES)])


@pytest.fixture(scope="session")
def face_videos(tmp_path_factory):
    """Six videos; two swapped into each other with masks, two without."""
    root = tmp_path_factory.mktemp("faces") / "FaceForensics++"
    scenes = {f"{number:03d}": scene(number) for number in range(6)}
    for number, frames in scenes.items():
        video(root / f"original_sequences/youtube/c23/videos/{number}.mp4", frames)
    video(root / "original_sequences/actors/c23/videos/01__walk.mp4", scene(7))
    face = np.zeros((HEIGHT, WIDTH), bool)
    face[16:48, 24:64] = True
    for method, pairs in (
        ("Deepfakes", ["000_001", "001_000"]),
        ("Face2Face", ["002_003", "004_005"]),
    ):
        base = root / "manipulated_sequences" / method
        for pair in pairs:
            frames = scenes[pair[:3]].copy()
            frames[:, face] = 255 - frames[:, face] // 4
            video(base / f"c23/videos/{pair}.mp4", frames)
            if method == "Deepfakes":
                mask = np.repeat(face[..., None] * np.uint8(255), 3, axis=2)
                video(base / f"masks/videos/{pair}.mp4", [mask] * FRAMES)
    return root


@pytest.fixture
def faces(face_videos, tmp_path):
    return Path(shutil.copytree(face_videos, tmp_path / "FaceForensics++"))


def test_videos_become_frames_masks_and_edges(faces):
    found = run("faceforensics", faces, frames=4)
    out = faces.parent / "out"
    assert rejected(out).keys() == {"FaceSwap", "NeuralTextures"}  # not downloaded
    counts = defaultdict(int)
    for row in found:
        counts[row["source"]] += 1
    assert counts == {"youtube": 24, "actors": 4, "Deepfakes": 4, "Face2Face": 4}
    assert_groups_are_whole(found)
    named = by_name(found)
    assert named["Deepfakes_000_001_7.png"]["group"] == "youtube/000"
    assert named["youtube_001_3.png"]["group"] == "youtube/000"
    assert named["actors_01__walk_3.png"]["group"] == "actors/01"
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[16:48, 24:64] = 255
    for row in found:
        if row["label"] == "0":
            assert row["mask"] == row["edge"] == "None"
            continue
        mask, edge = (read_mask(out / row[key])[..., 0] for key in ("mask", "edge"))
        assert set(np.unique(mask)) == {0, 255} == set(np.unique(edge))
        assert ((mask > 0) & (expected > 0)).sum() / (mask | expected > 0).sum() > 0.9
        np.testing.assert_array_equal(edge, widest_difference(mask))
    image = read_image(out / "image/youtube/youtube_002_18.png")
    assert abs(image.astype(int) - scene(2)[18]).mean() < 4
    assert_build_reads(out)


def widest_difference(mask):
    padded = np.pad(mask, 1, mode="edge")
    h, w = mask.shape
    shifts = [padded[i : i + h, j : j + w] for i in range(3) for j in range(3)]
    return np.max(shifts, axis=0) - np.min(shifts, axis=0)


def test_official_split_of_videos_is_kept(faces, tmp_path):
    pairs = {"train": [["000", "001"]], "val": [["002", "003"]]}
    pairs["test"] = [["005", "004"]]
    for split, value in pairs.items():
        (tmp_path / f"{split}.json").write_text(json.dumps(value))
    found = run("faceforensics", faces, frames=2, splits=tmp_path)
    for row in found:
        name = Path(row["image"]).name
        if not name.startswith("actors"):
            told = next(s for s, p in pairs.items() if name.split("_")[1] in p[0])
            assert row["split"] == told, name
    (tmp_path / "val.json").write_text(json.dumps([["001", "003"]]))
    with pytest.raises(InputError, match="video 001 is in train too"):
        run("faceforensics", faces, splits=tmp_path)
    (tmp_path / "train.json").write_text(json.dumps([["000"]]))
    run("faceforensics", faces, frames=2, splits=tmp_path)
    reasons = rejected(tmp_path / "out")
    assert any(name.startswith("Deepfakes_000_001") for name in reasons)
    assert "two splits: its videos 000 and 001 are in both" in reasons.values()


def test_extraction_resumes_and_workers_change_nothing(faces, monkeypatch, capsys):
    found = run("faceforensics", faces, frames=2)
    out = faces.parent / "out"
    images = sorted(out.glob("*/*/*.png"))
    before = {path: path.read_bytes() for path in images}
    (out / "image/youtube/.left.png.7.partial").write_bytes(b"")
    images[0].unlink()
    (out / "finished/youtube/youtube_003.json").unlink()
    times = {path: path.stat().st_mtime_ns for path in images[1:]}
    capsys.readouterr()
    assert run("faceforensics", faces, frames=2, workers=2) == found
    assert "9 videos are done already" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in images} == before
    assert not list(out.rglob("*.partial"))
    redone = {p.name for p, t in times.items() if p.stat().st_mtime_ns != t}
    assert redone == {
        *("youtube_003_7.png", "youtube_003_22.png", "Deepfakes_000_001_15.png"),
    }


def test_bad_videos_and_other_compressions(faces, capsys):
    base = faces / "manipulated_sequences"
    (base / "Deepfakes/c23/videos/000_001.mp4").write_bytes(b"no video")
    (base / "Face2Face/c23/videos/008_009.mp4").write_bytes(b"nor this")
    (base / "Deepfakes/masks/videos/007_008.mp4").write_bytes(b"")
    small = [np.full((HEIGHT // 2, WIDTH, 3), 255, np.uint8)] * FRAMES
    video(base / "Deepfakes/masks/videos/001_000.mp4", small)
    run("faceforensics", faces, frames=2)
    reasons = rejected(faces.parent / "out")
    assert reasons["000_001.mp4"].startswith("unreadable")
    assert reasons["008_009.mp4"].startswith("no mask: neither")
    assert reasons["007_008.mp4"].startswith("mask without image")
    assert reasons["001_000.mp4:15"].startswith("wrong size: mask or original 96x32")
    with pytest.raises(InputError, match=r"--compression=c40: there are \['c23'\]"):
        run("faceforensics", faces, compression="c40")
    (base / "Deepfakes/c23").rename(base / "Deepfakes/c40")
    with pytest.raises(InputError, match="no compression that all of its videos have"):
        run("faceforensics", faces)


def test_a_mask_video_that_is_shorter_is_told_and_the_rest_not_used(faces):
    base = faces / "manipulated_sequences/Deepfakes"
    white = [np.full((HEIGHT, WIDTH, 3), 255, np.uint8)] * (FRAMES // 3)
    video(base / "masks/videos/001_000.mp4", white)
    found = run("faceforensics", faces, frames=4)
    told = rejected(faces.parent / "out")["001_000.mp4"]
    assert told.startswith(f"shorter: {FRAMES // 3} of the {FRAMES} frames of ")
    assert told.endswith("; the rest is not used")
    frames = [row["image"] for row in found if "001_000" in row["image"]]
    assert frames and all(
        int(Path(image).stem.split("_")[-1]) < FRAMES // 3 for image in frames
    )


@pytest.mark.parametrize("nested", [False, True])
def test_extracted_frames(tmp_path, nested):
    root = tmp_path / "frames"
    shape = "{0}/{1}/{2:04d}" if nested else "{0}/{0}_{1}_{2}"
    name = shape.format
    for number in range(4):
        for frame in (8, 130):
            picture(root / "image" / (name("youtube", f"{number:03d}", frame) + ".png"))
            swap = name("FaceSwap", f"{number:03d}_{number ^ 1:03d}", frame)
            picture(root / "image" / f"{swap}.png")
            mask_file(root / "mask" / f"{swap}.png")
            mask_file(root / "edge" / f"{swap}.png")
    found = run("faceforensics", root)
    assert len(found) == 16
    assert_groups_are_whole(found)
    assert {row["group"] for row in found} == {"youtube/000", "youtube/002"}
    swaps = [row for row in found if row["label"] == "1"]
    assert all(row["mask"].replace("/mask/", "/edge/") == row["edge"] for row in swaps)
    assert_build_reads(tmp_path / "out")
    with pytest.raises(InputError, match="neither original_sequences"):
        run("faceforensics", root / "image" / "youtube")


def test_frames_are_those_that_were_asked_for(tmp_path):
    grey = [np.full((32, 32, 3), 40 + t, np.uint8) for t in range(200)]
    video(tmp_path / "long.mp4", grey)
    path = str(tmp_path / "long.mp4")
    all_of_them = list(videos.read_at(path, range(200)))
    levels = [frame.mean() for frame in all_of_them]
    np.testing.assert_allclose(levels - levels[0], np.arange(200), atol=2.5)
    wanted = [3, 4, 90, 199]
    *frames, none = videos.read_at(path, [*wanted, 400])
    assert none is None
    for index, frame in zip(wanted, frames, strict=True):
        np.testing.assert_array_equal(frame, all_of_them[index])


def test_frames_are_spread_evenly():
    assert spread(100, 4) == [12, 37, 62, 87]
    assert spread(3, 8) == [0, 1, 2]


# The parts.


def test_every_layout_has_a_docstring_that_names_its_folders():
    assert len(LAYOUTS) == 24
    assert all(function.__doc__ for function in LAYOUTS.values())


def test_dealt_lists_are_clean_in_the_eyes_of_the_audit(tmp_path):
    """Frames that names and a column join in all the ways there are."""
    names = [f"youtube_{n:03d}_{frame}" for n in range(24) for frame in (8, 130)]
    names += [f"Deepfakes_{n:03d}_{n ^ 1:03d}_30" for n in range(24)]
    names += [f"actors_{n:02d}__{s}_4" for n in range(8) for s in ("walk", "exit_room")]
    names += [f"DeepFakeDetection_{n:02d}_{n ^ 1:02d}__walk__X_1" for n in range(8)]
    names += [f"Tp_S_N_nat{n:05d}_nat{n:05d}_{n}" for n in range(12)]
    names += [f"Au_nat_{n:05d}" for n in range(12)] + [f"p{n}" for n in range(12)]
    root = tmp_path / "lists"
    rows = ["image,label,source,group"]
    for index, name in enumerate(names):
        picture(root / f"{name}.png", index)
        group = index // 5 if index % 2 else ""
        rows.append(f"{name}.png,0,{'ab'[index // 8 % 2]},{group}")
    (root / "all.csv").write_text("\n".join(rows) + "\n")
    found = run("paths_file", root, split="6:2:2")
    assert len(found) == len(names) and {row["split"] for row in found} == set(SPLITS)
    listed = [by_name(found)[f"p{n}.png"]["group"] for n in (0, 1, 3, 7, 9)]
    assert listed == ["", "b/24", "b/24", "b/25", "a/25"]
    lists = [f"--{split}={tmp_path / 'out' / f'paths_{split}.csv'}" for split in SPLITS]
    report = tmp_path / "audit"
    assert audit_command.main([*lists, "--names_only", f"--out={report}"]) == 0
    assert (report / "findings.csv").read_text().count("\n") == 1  # its header
    again = run("paths_file", tmp_path / "out", out=tmp_path / "again")
    groups = {row["image"]: row["group"] for row in found}
    assert {os.path.realpath(row["image"]): row["group"] for row in again} == {
        os.path.realpath(image): group for image, group in groups.items()
    }


def test_groups_are_dealt_whole_and_near_the_ratios():
    rng = np.random.default_rng(0)
    items = [Item(image=str(i), label=int(rng.random() < 0.4)) for i in range(2000)]
    groups = [f"g{int(rng.integers(300))}" if i % 2 else "" for i in range(2000)]
    for text in ("8:1:1", "6:2:2/5:2:3", "0:0:1", "1:1:0"):
        ratios = parse_ratios(text)
        splits = deal(items, groups, ratios, seed=3)
        by_group = defaultdict(set)
        for split, group in zip(splits, groups, strict=True):
            by_group[group].add(split)
        assert all(len(names) == 1 for group, names in by_group.items() if group)
        for label, shares in enumerate(ratios):
            both = zip(splits, items, strict=True)
            of = [split for split, item in both if item.label == label]
            got = np.array([of.count(split) for split in SPLITS]) / len(of)
            np.testing.assert_allclose(got, np.array(shares) / sum(shares), atol=0.01)
    backwards = deal(items[::-1], groups[::-1], parse_ratios("8:1:1"), seed=3)
    assert backwards[::-1] == deal(items, groups, parse_ratios("8:1:1"), seed=3)


def test_groups_of_one_makeup_go_to_all_splits():
    """CASIA's photographs: most were left alone, a third has forgeries in its group."""
    items = [Item(image=f"a{i}", label=0) for i in range(900)]
    items += [Item(image=f"m{i}", label=1) for i in range(600)]
    groups = [f"g{i}" for i in range(900)] + [f"g{i // 2}" for i in range(600)]
    splits = deal(items, groups, parse_ratios("8:1:1"), seed=0)
    for part, count in ((splits[:900], 900), (splits[900:], 600)):
        got = [part.count(split) / count for split in SPLITS]
        np.testing.assert_allclose(got, (0.8, 0.1, 0.1), atol=0.005)


def test_few_groups_leave_no_split_empty():
    items = [Item(image=str(i), label=i % 2) for i in range(30)]
    splits = deal(items, [f"g{i % 3}" for i in range(30)], parse_ratios("8:1:1"), 0)
    assert {*splits} == set(SPLITS)
    assert {*deal(items, ["one"] * 30, parse_ratios("8:1:1"), 0)} == {"train"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["casia"], "No layout 'casia'; there are ["),
        (["casia2", "--split=8:1"], "--split=8:1: give train:val:test such as 8:1:1"),
        (["casia2", "--split=0:0:0"], "all three are 0"),
        (["casia2", "--split=8:-1:1"], "give train:val:test"),
        (["casia2", "--lists=x"], "--lists=x: needs --split=published"),
        (["casia2", "--seed=-1"], "--seed=-1: 0 or more"),
        (["faceforensics", "--splits=x", "--split=study"], "give one of them"),
        (["faceforensics", "--frames=0"], "--frames=0: 1 or more"),
        (["nist16"], "no NC2016-"),
        (["imdlbenco_json"], "no list in it"),
        (["real_fake_folders"], "nothing to use for real_fake_folders"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, arguments, message):
    (tmp_path / "set").mkdir()
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, f"--root={tmp_path / 'set'}", f"--out={tmp_path / 'out'}"])
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message in error and error.count("\n") == 1


def test_lists_move_with_their_masks(tmp_path):
    root = tmp_path / "celebahq"
    picture(root / "lama" / "images" / "a.png")
    mask_file(root / "lama" / "masks" / "a.png", invert=True)
    row = run("celebahq_inpainting", root)[0]
    assert row["mask"] == os.path.join("masks", "lama", "masks", "a.png")
    assert os.path.isabs(row["image"])
