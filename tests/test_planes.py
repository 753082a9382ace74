"""What a mask marks and which way up it is: alike in a build and in an evaluation."""

import io

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from sdfl_jax.data import images, records
from sdfl_jax.data.batches import FileSource
from sdfl_jax.data.build.builder import build
from sdfl_jax.data.eval_sources import (
    ListSource,
    Prepared,
    list_sets,
    parse_sets,
    shard_sets,
)
from sdfl_jax.errors import InputError
from sdfl_jax.evaluate.scoring import _check_subsets
from tests.fuzz import by_pillow, smooth

REGION = np.zeros((40, 60), bool)
REGION[5:20, 8:50] = True


def rgba(colour, alpha) -> bytes:
    """One colour, or H W 3, under an alpha of H W."""
    planes = np.broadcast_to(np.uint8(colour), (*alpha.shape, 3))
    return by_pillow(np.dstack([planes, alpha]).astype(np.uint8), "PNG")


def palette(colours, indices, format="PNG", **options) -> bytes:
    picture = Image.fromarray(indices.astype(np.uint8), "P")
    picture.putpalette(np.uint8(colours).ravel().tolist())
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def grey(low, high, format="PNG") -> bytes:
    return by_pillow(np.where(REGION, np.uint8(high), np.uint8(low)), format)


OBJECTS = REGION.astype(int) + (REGION & (np.arange(60) > 30))  # 0, 1 and 2
BLACK_RED_GREEN = [0, 0, 0, 64, 0, 0, 0, 128, 0]


LA_SHAPE = by_pillow(np.dstack([REGION * 0, REGION * 255]).astype(np.uint8), "PNG")


@pytest.mark.parametrize(
    "data, notes",
    [
        (grey(0, 255), []),
        (grey(0, 1), []),
        (grey(0, 127), ["two_levels"]),
        (grey(0, 2), ["two_levels"]),
        (grey(3, 90, "TIFF"), ["two_levels"]),
        (grey(128, 255, "BMP"), ["two_levels"]),
        (imagecodecs.png_encode(REGION.astype(np.uint16) * 1000), ["two_levels"]),
        (palette(BLACK_RED_GREEN, REGION), ["palette_colours"]),
        (palette(BLACK_RED_GREEN, OBJECTS), ["palette_colours"]),
        (palette(BLACK_RED_GREEN, OBJECTS, "GIF"), ["palette_colours"]),
        (palette([0, 0, 0, 9, 9, 9], REGION), ["two_levels"]),
        (rgba((255, 255, 255), REGION * 255), ["alpha_shape"]),
        (rgba((0, 0, 0), REGION * 255), ["alpha_shape"]),
        (rgba((9, 80, 0), REGION * 90), ["alpha_shape", "two_levels"]),
        (LA_SHAPE, ["alpha_shape"]),
        (palette([0, 0, 0] * 2, REGION, transparency=b"\0\xff"), ["alpha_shape"]),
    ],
)
def test_what_marks_the_region_is_found_and_told(data, notes):
    mask, found = images.read_noted_mask(data)
    np.testing.assert_array_equal(mask[..., 0], REGION * np.uint8(255))
    assert found == notes
    inverse, _ = images.read_noted_mask(data, inverted=True)
    np.testing.assert_array_equal(inverse, 255 - mask)


def test_alpha_that_says_nothing_is_dropped():
    visible = np.where(REGION, 255, 0)
    mask, notes = images.read_noted_mask(rgba(visible[..., None], REGION * 255))
    np.testing.assert_array_equal(mask[..., 0], visible)
    everywhere, notes = images.read_noted_mask(rgba((255,) * 3, REGION * 0 + 255))
    assert everywhere.min() == 255 and notes == []


def turned_photo(orientation: int, size=(40, 60)) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return by_pillow(smooth(*size), "JPEG", quality=95, exif=exif)


@pytest.fixture
def read(tmp_path):
    """Mask and warnings of one image and its mask: of a build and of an evaluation."""

    def read(photo: bytes, mask: bytes, **how):
        (tmp_path / "a.jpg").write_bytes(photo)
        (tmp_path / "a.png").write_bytes(mask)
        (tmp_path / "list.csv").write_text("image,mask,label\na.jpg,a.png,1\n")
        manifest = build(
            tmp_path / "list.csv", tmp_path / f"out{how}", progress=False, **how
        )
        built = records.decode(records.RecordSource(tmp_path / f"out{how}")[0])
        scored = Prepared(ListSource(tmp_path / "list.csv", **how))[0]
        for name in ("image", "mask", "mask_resized"):
            np.testing.assert_array_equal(built[name], scored[name])
        warnings = {w for w in manifest["warnings"] if w != "one_class"}
        assert warnings == set(scored["warnings"])
        assert built["mask"].shape[:2] == built["image"].shape[:2]
        return built["mask"][..., 0] > 0, warnings

    return read


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_mask_of_the_stored_size_turns_with_its_image(read, orientation):
    mask, warnings = read(turned_photo(orientation), grey(0, 255))
    np.testing.assert_array_equal(mask, images.turned(REGION, orientation))
    assert warnings == {"mask_turned"}


@pytest.mark.parametrize("orientation", [6, 8])
def test_a_mask_of_the_stored_shape_turns_at_any_scale(read, orientation):
    half = by_pillow((REGION[::2, ::2] * 255).astype(np.uint8), "PNG")
    mask, warnings = read(turned_photo(orientation), half)
    expected = images.turned(REGION, orientation)
    assert (mask == expected).mean() > 0.9
    assert warnings == {"mask_turned", "mask_size"}


@pytest.mark.parametrize("orientation", [6, 8])
def test_a_mask_of_the_upright_size_stays(read, orientation):
    upright = by_pillow((REGION.T * 255).astype(np.uint8), "PNG")
    mask, warnings = read(turned_photo(orientation), upright)
    np.testing.assert_array_equal(mask, REGION.T)
    assert not warnings


@pytest.mark.parametrize(
    "orientation, size", [(2, (40, 60)), (3, (40, 60)), (4, (40, 60)), (6, (40, 40))]
)
def test_where_sizes_do_not_tell_it_is_told_and_chosen(read, orientation, size):
    region = REGION[: size[0], : size[1]]
    drawn = by_pillow((region * 255).astype(np.uint8), "PNG")
    photo = turned_photo(orientation, size)
    mask, warnings = read(photo, drawn)
    np.testing.assert_array_equal(mask, region)
    assert warnings == {"mask_unsure"}
    mask, warnings = read(photo, drawn, mask_as_stored=True)
    np.testing.assert_array_equal(mask, images.turned(region, orientation))
    assert warnings == {"mask_turned"}


def test_a_mask_with_an_orientation_of_its_own_is_upright_by_it(read):
    exif = Image.Exif()
    exif[0x0112] = 6
    drawn = by_pillow((REGION * 255).astype(np.uint8), "PNG", exif=exif)
    mask, warnings = read(turned_photo(6), drawn)
    np.testing.assert_array_equal(mask, images.turned(REGION, 6))
    assert not warnings


@pytest.mark.parametrize("planes", [smooth(), smooth()[..., 0]])
def test_sixteen_bits_that_hold_twelve_are_told(read, planes, tmp_path, capsys):
    dark = imagecodecs.png_encode(planes.astype(np.uint16) * 16)
    _, warnings = read(dark, grey(0, 255))
    assert warnings == {"few_bits"}
    (tmp_path / "dark.png").write_bytes(dark)
    (tmp_path / "full.png").write_bytes(
        imagecodecs.png_encode(planes.astype(np.uint16) * 257)
    )
    for name, told in (("dark", 1), ("full", 0)):
        FileSource([tmp_path / f"{name}.png"])[0]
        assert capsys.readouterr().err.count("12 bits or fewer") == told


def test_a_mask_that_marks_nothing_is_told_in_both(read):
    faint = np.arange(60 * 40, dtype=np.uint8).reshape(40, 60) % 100
    _, warnings = read(by_pillow(smooth(), "PNG"), by_pillow(faint, "PNG"))
    assert warnings == {"empty_mask"}


@pytest.mark.parametrize(
    "name", ["test (1).csv", "a,b.csv", "a=b.csv", "(x).csv", "é;.csv"]
)
def test_a_list_that_exists_is_one_whatever_its_name(tmp_path, name):
    for path in (tmp_path / name, tmp_path / "c.csv"):
        path.write_text("image,label\na.jpg,0\n")
    (tmp_path / "a.jpg").write_bytes(by_pillow(smooth(), "JPEG"))
    path = str(tmp_path / name)
    assert list(parse_sets(path).values()) == [path]
    assert parse_sets(f"one={path},{tmp_path / 'c.csv'}") == {
        "one": path,
        "c.csv": str(tmp_path / "c.csv"),
    }
    assert len(list_sets(path)[0].source) == 1


def test_a_repeated_line_is_kept_and_told_in_both(tmp_path):
    (tmp_path / "a.jpg").write_bytes(by_pillow(smooth(), "JPEG"))
    (tmp_path / "list.csv").write_text("image,label\n" + "a.jpg,0\n./a.jpg,0\n" * 2)
    manifest = build(tmp_path / "list.csv", tmp_path / "out", progress=False)
    assert manifest["warnings"]["duplicate"] == [3, 4, 5]
    source = ListSource(tmp_path / "list.csv")
    assert [source[i]["warnings"] for i in range(4)] == [[], *[["duplicate"]] * 3]


def test_a_wrong_root_names_the_first_file_and_where_it_is(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.jpg").write_bytes(by_pillow(smooth(), "JPEG"))
    (tmp_path / "list.csv").write_text("image,label\na.jpg,0\n")
    told = f"looked for {tmp_path}/no/a.jpg.*"
    for read in (
        lambda: ListSource(tmp_path / "list.csv", root=tmp_path / "no"),
        lambda: build(tmp_path / "list.csv", tmp_path / "out", root=f"{tmp_path}/no"),
    ):
        with pytest.raises(InputError, match=f"none of 1 lines can be used.*{told}"):
            read()


def test_a_build_refuses_a_folder_of_other_files(tmp_path):
    (tmp_path / "a.jpg").write_bytes(by_pillow(smooth(), "JPEG"))
    (tmp_path / "list.csv").write_text("image,label\na.jpg,0\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"holds other files already \(thesis.tex\)"):
        build(tmp_path / "list.csv", tmp_path / "out", progress=False)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_kinds_of_subsets_are_those_of_the_data(tmp_path):
    (tmp_path / "a.jpg").write_bytes(by_pillow(smooth(), "JPEG"))
    (tmp_path / "list.csv").write_text("image,label,kind\na.jpg,1,splice\n")
    build(tmp_path / "list.csv", tmp_path / "out", progress=False)
    sets = [*list_sets(str(tmp_path / "list.csv")), *shard_sets(str(tmp_path / "out"))]
    for part in sets:
        _check_subsets(["splice", "splice+splice"], [part])
        with pytest.raises(InputError, match="no kind 'spliced'; .*mean 'splice'"):
            _check_subsets(["splice+spliced"], [part])
