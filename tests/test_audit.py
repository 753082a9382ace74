"""Leaks are found by name and by content, told by line, and taken out."""

import csv
import os
import subprocess
import sys

import cv2
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from sdfl_jax.data import origins
from sdfl_jax.data.audit import __main__ as audit_command
from sdfl_jax.data.audit import auditor, leaks, similar
from sdfl_jax.data.lists import Entry

SPLICED = "Tp_D_CRN_S_N_cha00036_art00053_11741"


# Names


@pytest.mark.parametrize(
    "path, photographs",
    [
        (f"CASIA2/Tp/{SPLICED}.jpg", ("casia/cha00036", "casia/art00053")),
        ("Tp_S_NNN_S_N_nat00026_nat00026_00701.tif", ("casia/nat00026",)),
        ("CASIA2/Au/Au_cha_00036.jpg", ("casia/cha00036",)),
        ("Au_ani_0001.jpg", ("casia/ani0001",)),
        ("Sp/Sp_D_CND_A_pla0005_pla0023_0281.jpg", ("casia/pla0005", "casia/pla0023")),
        ("photo_cha_00036.jpg", ()),
        ("Au_cha_00036/other.jpg", ()),
        ("1t.tif", ()),
    ],
)
def test_casia_names_tell_their_photographs(path, photographs):
    assert origins.photographs(path) == photographs


@pytest.mark.parametrize(
    "path, videos",
    [
        ("image/Deepfakes/Deepfakes_005_010_30.png", ("youtube/005", "youtube/010")),
        ("image/youtube/youtube_005_8.png", ("youtube/005",)),
        ("youtube_005_100.png", ("youtube/005",)),  # 100 is a frame
        ("Face2Face/005_010/30.png", ("youtube/005", "youtube/010")),
        ("NeuralTextures/c23/videos/005_010.mp4", ("youtube/005", "youtube/010")),
        ("Deepfakes/c23/005_010/0130.png", ("youtube/005", "youtube/010")),
        ("original_sequences/youtube/c23/frames/005/0008.png", ("youtube/005",)),
        ("image/youtube/005/130.png", ("youtube/005",)),
        ("actors_01__kitchen_pan_12.png", ("actors/01",)),  # in any scene
        (
            "DeepFakeDetection_01_02__kitchen_pan__YVGY8LOK_8.png",
            ("actors/01", "actors/02"),
        ),
        ("Deepfakes/train/crops_256/005_010/0130.png", ("youtube/005", "youtube/010")),
        ("youtube/train/005_130.png", ("youtube/005",)),
        ("youtube/train/005.png", ()),  # any file's number
        ("my_faces/005_010_30.png", ()),
        ("youtube_0051_8.png", ()),
    ],
)
def test_faceforensics_names_tell_their_videos(path, videos):
    assert origins.videos(path) == videos


def test_groups_join_what_a_third_image_links():
    keys = [("005", "010"), ("011",), ("010",), (), ("010", "012"), ("012",)]
    assert origins.connected(keys) == ["005", "011", "005", "", "005", "005"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcdefghij"), max_size=3), max_size=12),
    st.randoms(),
)
def test_groups_do_not_depend_on_the_order(keys, random):
    def partition(order):
        groups = origins.connected([keys[i] for i in order])
        return {
            frozenset(i for i, g in zip(order, groups, strict=True) if g == group)
            for group in set(groups) - {""}
        }

    order = list(range(len(keys)))
    expected = partition(order)
    random.shuffle(order)
    assert partition(order) == expected
    for group in expected:  # nothing outside shares a key with it
        inside = {key for i in group for key in keys[i]}
        others = {key for i in set(order) - group for key in keys[i]}
        assert not inside & others


# Looks


def test_search_in_bands_finds_what_comparing_all_finds():
    rng = np.random.default_rng(0)
    others = rng.integers(0, 256, (400, 32), np.uint8)
    others[7] = others[3]
    queries = others[rng.integers(0, 400, 300)]
    bits = np.unpackbits(queries, axis=1)
    for row, flips in zip(bits, rng.integers(0, 16, 300), strict=True):
        row[rng.choice(256, flips, replace=False)] ^= 1
    queries = np.concatenate([np.packbits(bits, axis=1), ~others[:20]])
    index, distance = similar.nearest(queries, others)
    for i, query in enumerate(queries):
        exact = np.bitwise_count(query ^ others).sum(axis=1, dtype=int)
        if exact.min() <= similar.NEAR:
            assert (index[i], distance[i]) == (exact.argmin(), exact.min())
        else:
            assert index[i] == -1
    none = np.zeros((0, 32), np.uint8)
    assert similar.nearest(none, others)[0].shape == (0,)
    assert list(similar.nearest(queries[:2], none)[0]) == [-1, -1]


def picture(seed, size=96):
    """Blobs of noise, unlike any other seed's."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (12, 12, 3)).astype(np.uint8)
    return cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)


def bits_between(one, other):
    one, other = similar.fingerprint(one), similar.fingerprint(other)
    return (int.from_bytes(one) ^ int.from_bytes(other)).bit_count()


def test_fingerprints_survive_compression_and_resizing_and_tell_pictures_apart():
    image = picture(1)
    jpeg = cv2.imdecode(cv2.imencode(".jpg", image, [1, 50])[1], 1)
    assert bits_between(image, jpeg) <= 15
    assert bits_between(image, cv2.resize(image, (60, 60))) <= 15
    assert bits_between(image, picture(2)) > 2 * similar.NEAR
    assert similar.fingerprint(np.full((50, 50, 3), 90, np.uint8)) is None


# Lists


@pytest.fixture
def lists(tmp_path):
    """Writes lists of lines and runs the command on them: exit status, findings."""

    def run(*flags, suffix=".txt", **texts):
        argv = [f"--out={tmp_path / 'out'}", "--workers=0", *flags]
        for split, lines in texts.items():
            path = tmp_path / f"{split}_list{suffix}"
            path.write_bytes(os.fsencode("\n".join(lines) + "\n"))
            argv.append(f"--{split}={path}")
        status = audit_command.main(argv)
        with open(tmp_path / "out" / "findings.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        return status, rows

    return run


def told(rows):
    return [
        (
            r["finding"],
            r["split_a"],
            int(r["line"]),
            r["split_b"],
            int(r["line_b"] or 0),
        )
        for r in rows
    ]


REFERENCE = {
    "train": [
        "./data/Au/Au_art_00053.jpg None None 0",
        "./data/x/image_a.png ./data/m/a.png ./data/e/a.png 1",
        "./data/Deepfakes/Deepfakes_005_010_30.png m.png None 1",
        "./data/x/image_a.png ./data/m/a.png ./data/e/a.png 1",
        "./data/fresh.jpg None None 0",
    ],
    "val": ["data/Au/Au_nat_00001.jpg None None 0"],
    "test": [
        f"./data/Tp/{SPLICED}.jpg m1.png None 1",
        "./data/youtube/youtube_005_8.png None None 0",
        "./data//x/image_a.png ./data/m/a.png ./data/e/a.png 1",
        "./data/other.jpg None None 1",
        "./elsewhere/fresh.jpg None None 0",
    ],
}


def test_names_alone_tell_leaks_in_the_reference_layout(lists, capsys):
    status, rows = lists(**REFERENCE)
    assert status == 1
    assert told(rows) == [
        ("same_file", "test", 3, "train", 2),
        ("same_name", "test", 5, "train", 5),
        ("same_photograph", "test", 1, "train", 1),
        ("same_video", "test", 2, "train", 3),
        ("listed_twice", "train", 4, "train", 2),
        ("no_mask", "test", 4, "", 0),
    ]
    assert [row["detail"] for row in rows[2:4]] == ["casia/art00053", "youtube/005"]
    assert rows[0]["other"] == "data/x/image_a.png"
    printed = capsys.readouterr().out
    assert "test: 4 of 5 lines leak (80.0 %)" in printed
    assert "videos: 1 of 1 connected groups in test reach into train" in printed


def test_fixed_lists_keep_their_lines_and_audit_clean(lists, tmp_path):
    fixed = tmp_path / "fixed"
    clean = "./data/Au/Au_nat_00077.jpg   None None 0"
    broken = "./data/broken.jpg 1"
    texts = REFERENCE | {
        "train": [*REFERENCE["train"], clean, broken],
        "val": [*REFERENCE["val"], "./data/youtube/youtube_010_1.png None None 0", ""],
        "test": [*REFERENCE["test"], REFERENCE["test"][0]],
    }
    assert lists(f"--fix={fixed}", f"--root={tmp_path}", **texts)[0] == 1
    kept = {
        split: (fixed / f"paths_{split}.txt").read_text().splitlines()
        for split in texts
    }
    assert kept["train"] == [clean, broken]
    assert kept["val"] == texts["val"]  # video 010 is in train alone, and leaves it
    assert kept["test"] == REFERENCE["test"]
    argv = [f"--{split}={fixed}/paths_{split}.txt" for split in texts]
    assert audit_command.main([*argv, f"--root={tmp_path}"]) == 0


def test_columns_of_a_header_tell_groups_of_their_source(lists):
    status, rows = lists(
        suffix=".csv",
        train=["image,label,source,group", "a.png,0,coverage,7", "b.png,0,nist,8"],
        test=["group,source,label,image", "7,nist,0,c.png", "8,nist,1,d.png"],
    )
    assert status == 1
    assert told(rows) == [
        ("same_group", "test", 3, "train", 3),
        ("no_mask", "test", 3, "", 0),
    ]


def test_a_name_with_a_slash_is_that_of_one_group_in_all_sources(lists):
    header = "image,label,source,group"
    _, rows = lists(
        suffix=".csv",
        train=[header, "a.png,0,real,celebahq/7", "b.png,0,real,8"],
        test=[header, "c.png,0,lama,celebahq/7", "d.png,0,lama,8"],
    )
    assert told(rows) == [("same_group", "test", 2, "train", 2)]
    assert rows[0]["detail"] == "celebahq/7"


def test_another_scene_of_an_actor_leaks(lists):
    status, rows = lists(
        train=["actors_01__kitchen_pan_3.png None 0"],
        test=[
            "actors_01__exit_phone_room_8.png None 0",
            "actors_02__walk_8.png None 0",
        ],
    )
    assert status == 1
    assert told(rows) == [("same_video", "test", 1, "train", 1)]


def test_numbers_and_names_of_many_folders_are_no_leaks(lists):
    train = ["real/0001.jpg None 0", "real/img1.jpg None 0", "fake/img1.jpg m 1"]
    test = ["t/0001.jpg None 0", "t/img1.jpg None 0", "t/2 (1).jpg\tNone\t0"]
    assert lists(train=train, test=test)[0] == 0


def test_leak_into_val_alone_is_told_and_leaves_test_clean(lists):
    status, rows = lists(
        train=["a1.png None 0"], val=["a1.png None 0"], test=["b1.png None 0"]
    )
    assert status == 0
    # Each list counts from its own folder, which is the same here.
    assert told(rows) == [("same_file", "val", 1, "train", 1)]


def entry(split, line, name, group=""):
    return leaks.Line.of(
        Entry(line=line, name=name, image=f"/{name}", label=0, group=group)
    )


names = st.one_of(
    st.tuples(st.integers(0, 4), st.integers(0, 4)).map(
        lambda v: "Deepfakes_00{}_00{}_1.png".format(*v)
    ),
    st.tuples(st.sampled_from("xy"), st.integers(0, 4)).map(
        lambda v: "{}/Au_cha_0000{}.jpg".format(*v)
    ),
    st.tuples(st.sampled_from("xyz"), st.sampled_from("ab")).map(
        lambda v: "{}/{}.png".format(*v)
    ),
)


@settings(max_examples=60, deadline=None)
@given(*[st.lists(names, max_size=8)] * 3)
def test_comparisons_are_symmetric_and_what_is_kept_is_clean(train, val, test):
    lists = {
        split: [entry(split, i, name) for i, name in enumerate(part)]
        for split, part in zip(
            ("train", "val", "test"), (train, val, test), strict=True
        )
    }
    for match in leaks._matchers({}).values():
        forth = list(match(lists["test"], lists["train"]))
        back = list(match(lists["train"], lists["test"]))
        assert bool(forth) == bool(back)
        ends = {a.line for a, _, _ in back}
        assert all(b.line in ends for _, b, _ in forth)
    kept = leaks.fix(lists)
    assert not leaks.audit(kept)
    assert {line.image for line in kept["test"]} == {f"/{name}" for name in test}


# Content


@pytest.fixture
def tree(tmp_path):
    """Six pictures, copies of them in other guises, masks right and wrong."""
    for seed in range(6):
        cv2.imwrite(str(tmp_path / f"{seed}.png"), picture(seed))
    (tmp_path / "same.png").write_bytes((tmp_path / "0.png").read_bytes())
    cv2.imwrite(str(tmp_path / "near.jpg"), picture(1), [1, 60])
    (tmp_path / "sub").mkdir()
    cv2.imwrite(str(tmp_path / "sub" / "twin.png"), picture(4))
    cv2.imwrite(str(tmp_path / "twin.png"), picture(5))
    (tmp_path / "bad.jpg").write_text("<html>404</html>")
    mask = np.zeros((96, 96), np.uint8)
    cv2.imwrite(str(tmp_path / "empty.png"), mask)
    mask[10:20, 10:20] = 255
    cv2.imwrite(str(tmp_path / "marked.png"), mask)
    return tmp_path


TREE = {
    "train": ["0.png None 0", "1.png marked.png 1", "twin.png None 0"],
    "test": [
        "same.png None 0",
        "near.jpg marked.png 1",
        "sub/twin.png None 0",
        "2.png empty.png 1",
        "3.png marked.png 0",
        "bad.jpg gone.png 1",
        "absent.png bad.jpg 1",
    ],
}


def test_content_tells_copies_labels_and_broken_files(lists, tree):
    status, rows = lists("--content", f"--fix={tree / 'fixed'}", **TREE)
    assert status == 1
    assert told(rows) == [
        ("same_bytes", "test", 1, "train", 1),
        ("near_duplicate", "test", 2, "train", 2),
        ("mask_missing", "test", 6, "", 0),
        ("mask_empty", "test", 4, "", 0),
        ("mask_of_authentic", "test", 5, "", 0),
        ("unreadable", "test", 6, "", 0),
        ("unreadable", "test", 7, "", 0),
        ("unreadable", "test", 7, "", 0),
    ]
    reasons = " ".join(row["detail"] for row in rows[-3:])
    assert "web page" in reasons and "no such file" in reasons and "mask not" in reasons
    argv = [f"--{s}={tree / 'fixed' / f'paths_{s}.txt'}" for s in TREE]
    assert audit_command.main([*argv, f"--root={tree}"]) == 0


def test_names_only_opens_nothing_and_takes_names_for_files(lists, tree):
    status, rows = lists("--names_only", **TREE)
    assert status == 1 and told(rows) == [("same_name", "test", 3, "train", 3)]


def test_names_that_are_not_utf8_are_told_and_kept(lists, tmp_path):
    names = [b"\xff\xe9.jpg None 0", b"x/a1.jpg None 0"]
    texts = {
        "train": [os.fsdecode(line) for line in names],
        "test": [os.fsdecode(names[0]), "y/b1.jpg None 0"],
    }
    status, rows = lists(f"--fix={tmp_path / 'fixed'}", **texts)
    assert status == 1 and rows[0]["path"] == "\\udcff\\udce9.jpg"
    kept = (tmp_path / "fixed" / "paths_train.txt").read_bytes()
    assert kept == names[1] + b"\n"
    assert (tmp_path / "fixed" / "paths_test.txt").read_bytes().startswith(names[0])


def test_inverted_masks_are_read_as_such(lists, tree):
    lines = ["2.png empty.png 1", "3.png None 0"]
    status, rows = lists("--mask_inverted", test=lines)
    assert status == 0 and not rows


def test_worker_processes_see_the_same(tree):
    entries = [
        Entry(line=i, name="", image=str(tree / f"{i % 6}.png"), label=0)
        for i in range(300)
    ]
    entries += [
        Entry(line=i, name="", image=str(tree / f"absent{i}.png"), label=0)
        for i in range(300)
    ]
    alone = auditor.look(entries, progress=False)
    assert auditor.look(entries, workers=2, progress=False) == alone


@pytest.mark.parametrize(
    "flags, reason",
    [
        ([], "No list given"),
        (["--test=none.txt"], "no such list"),
        (["--test={tmp}/junk.txt"], "none of 1 lines can be used"),
        (["--test={tmp}/good.txt", "--content"], "no image of the lists is here"),
        (["--test={tmp}/good.txt", "--fix={tmp}/paths"], "would write over"),
        (["--test={tmp}/good.txt", "--fix={tmp}/good.txt"], "a file"),
        (["--test={tmp}/good.txt", "--out={tmp}/good.txt"], "a file"),
        (["--test={tmp}/good.txt", "--train={tmp}/good.txt", "--fix={tmp}/f"], "every"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path, capsys, flags, reason):
    (tmp_path / "junk.txt").write_text("no columns at all here really\n")
    (tmp_path / "good.txt").write_text("a1.jpg None 0\n")
    (tmp_path / "paths").mkdir()
    (tmp_path / "paths" / "paths_test.txt").symlink_to(tmp_path / "good.txt")
    with pytest.raises(SystemExit) as stop:
        audit_command.main([flag.format(tmp=tmp_path) for flag in flags])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("Error: ") and error.count("\n") == 1 and reason in error


def test_command_exits_with_its_verdict(tmp_path):
    (tmp_path / "a.txt").write_text("a1.jpg None 0\n")
    command = [sys.executable, "-m", "sdfl_jax.data.audit"]
    flags = [f"--train={tmp_path}/a.txt", f"--test={tmp_path}/a.txt"]
    assert subprocess.run(command + flags, capture_output=True).returncode == 1
    assert subprocess.run(command + flags[1:], capture_output=True).returncode == 0
