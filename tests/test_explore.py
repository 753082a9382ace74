"""Charts of a data set: what is measured, and a page that stands alone."""

import io
import re
from collections import Counter

import cv2
import numpy as np
import pytest
from PIL import Image

from sdfl_jax.data.build.builder import build
from sdfl_jax.data.explore import __main__ as explore_command
from sdfl_jax.data.explore import explorer, plots

CHARTS = {
    "classes.png",
    "sizes.png",
    "mask_area.png",
    "intensity.png",
    "jpeg_quality.png",
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Images of two sources, one of them a JPEG of quality 70, and lists of them."""
    folder = tmp_path_factory.mktemp("tree")
    rng = np.random.default_rng(0)
    for i in range(6):
        image = rng.integers(0, 256, (40, 60, 3), np.uint8)
        image[..., 2] = 200 if i % 2 else 100  # red, in OpenCV's order
        cv2.imwrite(str(folder / f"{i}.png"), image)
    cv2.imwrite(str(folder / "5.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 70])
    mask = np.zeros((40, 60), np.uint8)
    mask[:20, :30] = 255
    cv2.imwrite(str(folder / "mask.png"), mask)
    cv2.imwrite(str(folder / "edge.png"), explorer.edge_of(mask, 1))
    (folder / "paths.txt").write_text(
        "0.png None None 0\n"
        "1.png mask.png edge.png 1\n"
        "2.png None None 0\n"
        "5.jpg mask.png wrong/edge.png 1\n"
        "3.png None None 1\n"
    )
    (folder / "paths.csv").write_text(
        "image,mask,label,source,kind\n"
        "0.png,,0,<b>one</b> $x^$,\n"
        "1.png,mask.png,1,<b>one</b> $x^$,splice\n"
        "2.png,,0,two,\n"
        "absent.png,,0,two,\n"
        "4.png,,2,two,\n"
    )
    return folder


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 92, 95, 99, 100])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_quality_is_read_off_the_quantization_tables(quality, mode):
    file = io.BytesIO()
    Image.new(mode, (16, 16), "gray").save(file, "JPEG", quality=quality)
    assert explorer.jpeg_quality(file.getvalue()) == quality


def test_other_files_have_no_quality():
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, "PNG")
    assert explorer.jpeg_quality(file.getvalue()) is None
    assert explorer.jpeg_quality(b"\xff\xd8\xff") is None


def test_edge_runs_along_the_border_and_not_along_the_frame():
    mask = np.zeros((20, 30), np.uint8)
    mask[:10, :15] = 255
    edge = explorer.edge_of(mask, 1)
    expected = np.zeros_like(mask)
    expected[9:11, :16] = expected[:11, 14:16] = 255
    np.testing.assert_array_equal(edge, expected)


def test_facts_of_a_list(tree):
    examples = explorer.ListExamples(str(tree / "paths.txt"))
    one, two, _, jpeg, unknown = explorer.measure(examples, range(5), progress=False)
    assert (one.label, one.height, one.width, one.format) == (0, 40, 60, "PNG")
    assert one.area is None and one.quality is None
    assert one.intensities[0, 100] == 1 and two.intensities[0, 200] == 1
    np.testing.assert_allclose(two.intensities.sum(axis=1), 1, rtol=1e-5)
    assert two.area == jpeg.area == 0.25
    assert (jpeg.format, jpeg.quality) == ("JPEG", 70)
    assert unknown.label == 1 and unknown.area is None
    assert examples.load(1).edge is not None
    assert examples.load(3).edge is None  # listed, but not there


@pytest.mark.parametrize("storage", ["original", "resized"])
def test_shards_have_the_facts_of_their_list(tree, tmp_path, storage):
    out = tmp_path / "shards"
    build(tree / "paths.txt", out, image_size=32, storage=storage, progress=False)
    shards = explorer.ShardExamples(str(out))
    listed = explorer.ListExamples(str(tree / "paths.txt"))
    assert shards.counts == listed.counts
    for i in range(5):
        a, b = explorer.facts(shards, i), explorer.facts(listed, i)
        same = ("source", "label", "name", "height", "width", "area")
        assert [getattr(a, key) for key in same] == [getattr(b, key) for key in same]
        if storage == "original":
            assert (a.format, a.quality) == (b.format, b.quality)
            np.testing.assert_array_equal(a.intensities, b.intensities)
        else:
            assert (a.format, a.quality) == ("raw pixels", None)


def test_worker_processes_measure_the_same(tree, tmp_path):
    path = tmp_path / "many.txt"
    path.write_text("0.png None None 0\n1.png mask.png None 1\n" * 150)
    examples = explorer.ListExamples(str(path), root=str(tree))
    alone = explorer.measure(examples, range(255), progress=False)
    helped = explorer.measure(examples, range(300), workers=2, progress=False)
    assert [f[:7] for f in helped[:255]] == [f[:7] for f in alone]


def test_page_stands_alone_and_names_are_no_markup(tree, tmp_path):
    out = tmp_path / "explored"
    explore_command.main(
        [f"--paths_file={tree / 'paths.csv'}", f"--out={out}", "--workers=0"]
    )
    galleries = {"gallery_1.png", "gallery_2.png"}
    assert {p.name for p in out.iterdir()} == CHARTS | galleries | {"index.html"}
    for name in CHARTS | galleries:
        with Image.open(out / name) as chart:
            assert chart.width == 990 and np.asarray(chart.convert("L")).std() > 5
    page = (out / "index.html").read_text()
    sources = re.findall(r'src="([^"]{,22})', page)
    assert len(sources) == 7 and set(sources) == {"data:image/png;base64,"}
    assert "href" not in page and "<b>one" not in page and "&lt;b&gt;one" in page
    assert "absent.png: no such file" in page and "label &#x27;2&#x27;" in page
    # An older result is replaced; anything else is not.
    explore_command.main(
        [f"--paths_file={tree / 'paths.csv'}", f"--out={out}", "--workers=0"]
    )


def test_sample_is_drawn_evenly_and_classes_are_counted_whole(tree, tmp_path):
    path = tmp_path / "many.txt"
    path.write_text("0.png None None 0\n" * 90 + "1.png mask.png None 1\n" * 10)
    examples = explorer.ListExamples(str(path), root=str(tree))
    counts = explorer.explore(
        examples, tmp_path / "out", title="many", sample=30, progress=False
    )
    assert counts == {("", 0): 90, ("", 1): 10}
    page = (tmp_path / "out" / "index.html").read_text()
    assert "100 images" in page and "30 of them, drawn evenly" in page


def test_charts_say_so_where_there_is_nothing_to_show(tree, tmp_path):
    path = tmp_path / "one.txt"
    path.write_text("0.png None None 0\n")
    examples = explorer.ListExamples(str(path), root=str(tree))
    found = explorer.measure(examples, [0], progress=False)
    for figure in (plots.mask_area(found), plots.jpeg_quality(found)):
        assert "no " in figure.texts[0].get_text()
    explorer.explore(examples, tmp_path / "out", title="one", progress=False)


def test_many_sources_share_what_has_no_room(tree):
    fact = explorer.facts(explorer.ListExamples(str(tree / "paths.txt")), 1)
    many = [fact._replace(source=f"{'long name ' * 4}{i}") for i in range(12)]
    groups = plots._by_source(many, lambda f: f.area)
    assert len(groups) == 9 and len(groups["others"]) == 4
    plots.classes(Counter({(f.source, 1): 5 for f in many} | {("", 0): 1}))


@pytest.mark.parametrize(
    "flags, reason",
    [
        (["--paths_file=none.txt"], "no such list"),
        (["--data={tmp}"], "not a folder of shards"),
        (["--data={tmp}", "--root=/"], "for lists"),
        (["--paths_file={tree}/paths.txt", "--sample=0"], "from 1"),
        (["--paths_file={tmp}/absent.txt"], "no image can be read"),
        (["--paths_file={tmp}/junk.txt"], "none of 1 lines"),
        (["--paths_file={tree}/paths.txt", "--out={tmp}"], "holds something else"),
    ],
)
def test_bad_input_is_one_line(tree, tmp_path, capsys, flags, reason):
    (tmp_path / "absent.txt").write_text("absent.png None 0\n")
    (tmp_path / "junk.txt").write_text("no columns at all here really\n")
    argv = [flag.format(tmp=tmp_path, tree=tree) for flag in flags]
    with pytest.raises(SystemExit) as stop:
        explore_command.main([f"--out={tmp_path / 'out'}", "--workers=0", *argv])
    error = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert error[-1].startswith("Error: ") and reason in error[-1]
    assert not (tmp_path / "out").exists()
