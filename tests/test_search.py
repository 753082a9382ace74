"""What a folder is searched for: found, told, or left out for a reason."""

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from sdfl_jax.data import images, search
from sdfl_jax.data.layouts.common import image_files
from sdfl_jax.errors import InputError
from tests.fuzz import by_pillow, heic, smooth

LARGE = np.kron(smooth(), np.ones((4, 5, 1), np.uint8))


@pytest.mark.parametrize(
    "data, tolerance",
    [
        (lambda: by_pillow(LARGE, "AVIF", quality=90), 2),
        (
            lambda: imagecodecs.avif_encode(
                LARGE.astype(np.uint16) * 4, bitspersample=10
            ),
            3,
        ),
        (lambda: heic(LARGE, quality=90), 2),
        (lambda: imagecodecs.jpegxl_encode(LARGE, level=95), 1),
        (lambda: imagecodecs.jpegxl_encode(LARGE, usecontainer=True, level=95), 1),
        (
            lambda: imagecodecs.jpegxl_encode(
                LARGE.astype(np.uint16) * 257, lossless=True
            ),
            0,
        ),
        (
            lambda: imagecodecs.jpegxl_encode(
                np.dstack([LARGE, LARGE[..., 0]]), lossless=True
            ),
            0,
        ),
    ],
)
def test_what_phones_and_the_web_write_is_read_whole_or_refused(data, tolerance):
    data = data()
    image = images.read_image(data)
    assert np.abs(image.astype(int) - LARGE).mean() <= tolerance
    for part in (0.1, 0.5, 0.95):
        with pytest.raises(InputError):
            images.read_image(data[: int(len(data) * part)])
    with pytest.raises(InputError, match="300x160 pixels"):
        images.read_image(data, max_pixels=1000)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_avif_is_turned_upright(orientation):
    def exif():
        exif = Image.Exif()
        exif[0x0112] = orientation
        return exif

    image = images.read_image(by_pillow(LARGE, "AVIF", quality=95, exif=exif()))
    expected = images.read_image(by_pillow(LARGE, "PNG", exif=exif()))
    assert np.abs(image.astype(int) - expected).mean() < 3


@pytest.mark.parametrize(
    "size", [(8, 8), (40, 256), (41, 60), (300, 100), (1, 1), (600, 9)]
)
def test_sizes_of_jpeg_xl_are_known_before_it_is_decoded(size):
    data = imagecodecs.jpegxl_encode(np.zeros((*size, 3), np.uint8))
    assert images._size_of_jpeg_xl(data) == size[::-1]


@pytest.fixture
def tree(tmp_path):
    """Folders as they come from archives, phones and other systems."""
    for name in [
        *("a.jpg", "b.HEIC", "sub/c.jfif", "sub/deep/d.avif", "e.jxl", "._a.jpg"),
        *("__MACOSX/._a.jpg", "__MACOSX/a.jpg", "@eaDir/a.jpg", ".git/x.png"),
        *("Thumbs.db", ".DS_Store", "notes.txt", "f.jp2", "sub/g.CR2", "h.psd"),
    ]:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "in"


FOUND = ["a.jpg", "b.HEIC", "e.jxl", "sub/c.jfif", "sub/deep/d.avif"]


def names(found, root):
    return [path.relative_to(root).as_posix() for path in found]


@pytest.mark.parametrize("find", [lambda p: search.find([p]), image_files])
def test_images_are_found_and_others_told(tree, capsys, find):
    assert names(find(tree), tree) == FOUND
    told = capsys.readouterr().err
    assert (
        "3 files that look like images are not read: f.jp2, h.psd, sub/g.CR2." in told
    )
    find(tree)
    assert not capsys.readouterr().err  # once


def test_links_are_followed_and_lead_nowhere_twice(tree, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.png").touch()
    (other / "up").symlink_to(tree)
    (tree / "link").symlink_to(other)
    (tree / "again").symlink_to(tree / "link")
    (tree / "self").symlink_to(tree)
    (tree / "sub" / "up").symlink_to("..")
    (tree / "one.png").symlink_to(other / "x.png")
    (tree / "broken").symlink_to(tmp_path / "nowhere")
    found = names(search.find([tree]), tree)
    assert sorted(found) == sorted([*FOUND, "again/x.png", "one.png"])


def test_output_is_not_searched(tree, capsys):
    for name in ("out/masks/a.jpg.png", "masks/b.png", "mine/masks/c.png"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()
    search.mark_output(tree / "out/masks")
    found = names(search.find([tree], skip=[tree / "masks"]), tree)
    assert sorted(found) == sorted([*FOUND, "mine/masks/c.png"])
    assert "output of this program: out/masks" in capsys.readouterr().err
    assert names(search.find([tree / "masks"]), tree) == ["masks/b.png"]


@pytest.mark.parametrize("path", ["https://x.org/a.jpg", "HTTP://x/y", "s3://b/a.png"])
def test_addresses_are_to_be_downloaded_first(path):
    with pytest.raises(InputError, match="download it first"):
        search.find([path])


def test_the_home_folder_may_be_a_tilde(tree, monkeypatch):
    monkeypatch.setenv("HOME", str(tree))
    assert names(search.find(["~"]), tree) == FOUND
    assert search.find(["~/a.jpg"]) == [tree / "a.jpg"]


def test_no_two_images_have_one_place_for_their_mask():
    images_ = [
        "two.jpg",
        "two.jpg.png",
        "two.jpg.png.png",
        "two.png",
        "two",
        "two.png.png",
    ]
    images_ += ["two.JPG", "two.PNG", "two.v1.png", "two.v1", "two.v1.jpg", "a/two.jpg"]
    images_ += ["two.heic", "two.heic.png", "two.png.png.png", "two.tif.PNG"]
    places = [images.png_name(name) for name in images_]
    assert len(set(places)) == len(places)
    assert all(place.lower().endswith(".png") for place in places)
    assert places[0] == "two.jpg.png" and places[3] == "two.png"
    assert images.png_name("two.v1.png") == "two.v1.png"
