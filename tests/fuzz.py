"""Images, lists and weights of every kind, and what random damage does to the readers.

python -m tests.fuzz images|lists|weights --seed=1 --seconds=600
"""

import argparse
import io
import pathlib
import random
import re
import struct
import tempfile
import time
import zlib

import imagecodecs
import numpy as np
import pillow_heif
import tifffile
from PIL import Image

from sdfl_jax.data import images
from sdfl_jax.data.lists import read_list
from sdfl_jax.errors import InputError
from sdfl_jax.weights.formats import read_weights


def smooth(height=40, width=60) -> np.ndarray:
    """A picture that survives JPEG: gradients."""
    y, x = np.mgrid[:height, :width]
    planes = np.stack([y * 5, x * 4, 255 - y * 3 - x], axis=-1)
    return np.clip(planes, 0, 255).astype(np.uint8)


def by_pillow(array, format, mode=None, **options) -> bytes:
    picture = Image.fromarray(array)
    file = io.BytesIO()
    (picture.convert(mode) if mode else picture).save(file, format, **options)
    return file.getvalue()


def tiff(array, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def interlaced_png(image) -> bytes:
    """Adam7, which none of the encoders at hand writes."""
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)]
    passes += [(0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = b"".join(
        b"\0" + row.tobytes() for x, y, dx, dy in passes for row in image[y::dy, x::dx]
    )
    height, width, _ = image.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data))
        + name
        + data
        + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def kinds(image: np.ndarray) -> dict[str, bytes]:
    """`image` as files of every kind that says what it shows, but for JPEG's loss."""
    other = Image.fromarray(255 - image)
    animation = {"save_all": True, "append_images": [other]}
    cmyk = np.asarray(Image.fromarray(image).convert("CMYK"))
    deep, real = image.astype(np.uint16) * 257, image.astype(np.float32) / 255
    rgb = {"photometric": "rgb"}
    planar = {**rgb, "planarconfig": "separate"}
    return {
        "jpeg": by_pillow(image, "JPEG", quality=95),
        "jpeg progressive": by_pillow(image, "JPEG", quality=95, progressive=True),
        "jpeg rgb": imagecodecs.jpeg8_encode(
            image, level=95, colorspace="RGB", outcolorspace="RGB"
        ),
        "jpeg cmyk": by_pillow(image, "JPEG", "CMYK", quality=95),
        "jpeg ycck": imagecodecs.jpeg8_encode(  # inverted, as Adobe writes it
            255 - cmyk, level=95, colorspace="CMYK", outcolorspace="YCCK"
        ),
        "png": by_pillow(image, "PNG"),
        "png alpha": by_pillow(image, "PNG", "RGBA"),
        "png transparent colour": by_pillow(image, "PNG", transparency=(0, 0, 255)),
        "png 16": imagecodecs.png_encode(deep),
        "png 16 alpha": imagecodecs.png_encode(np.dstack([deep, deep[..., :1]])),
        "png interlaced": interlaced_png(image),
        "png animated": by_pillow(image, "PNG", **animation),
        "tiff": by_pillow(image, "TIFF"),
        "tiff lzw": by_pillow(image, "TIFF", compression="tiff_lzw"),
        "tiff deflate": by_pillow(image, "TIFF", compression="tiff_adobe_deflate"),
        "tiff packbits": by_pillow(image, "TIFF", compression="packbits"),
        "tiff cmyk": by_pillow(image, "TIFF", "CMYK"),
        "tiff alpha": by_pillow(image, "TIFF", "RGBA"),
        "tiff pages": tiff(np.stack([image, 255 - image]), **rgb),
        "tiff 16": tiff(deep, **rgb),
        "tiff 16 lzw": tiff(deep, compression="lzw", predictor=True, **rgb),
        "tiff 16 planes": tiff(deep.transpose(2, 0, 1).copy(), **planar),
        "tiff 16 tiles": tiff(deep, tile=(16, 16), compression="zlib", **rgb),
        "tiff 16 big-endian": tiff(deep, byteorder=">", **rgb),
        "tiff float16": tiff(real.astype(np.float16), **rgb),
        "tiff float32": tiff(real, **rgb),
        "tiff float32 lzw": tiff(real, compression="lzw", predictor=True, **rgb),
        "tiff float32 planes": tiff(real.transpose(2, 0, 1).copy(), **planar),
        "tiff float32 deflate": tiff(real, compression="zlib", predictor=True, **rgb),
        "tiff float64": tiff(real.astype(np.float64), **rgb),
        "tiff float32 in 0..255": tiff(image.astype(np.float32), **rgb),
        "bigtiff": tiff(image, bigtiff=True, **rgb),
        "bmp": by_pillow(image, "BMP"),
        "webp": by_pillow(image, "WEBP", lossless=True),
        "webp alpha": by_pillow(image, "WEBP", "RGBA", lossless=True),
        "webp animated": by_pillow(image, "WEBP", lossless=True, **animation),
    }


def grey_kinds(grey: np.ndarray) -> dict[str, bytes]:
    """`grey` uint8 H W as files of every kind of one channel."""
    deep, real = grey.astype(np.uint16) * 257, grey.astype(np.float32) / 255
    return {
        "jpeg grey": by_pillow(grey, "JPEG", quality=95),
        "png grey": by_pillow(grey, "PNG"),
        "png grey alpha": by_pillow(grey, "PNG", "LA"),
        "png grey transparent": by_pillow(grey, "PNG", transparency=3),
        "png grey 16": imagecodecs.png_encode(deep),
        "tiff grey 16": tiff(deep),
        "tiff grey 16 white at 0": tiff(65535 - deep, photometric="miniswhite"),
        "tiff grey white at 0": tiff(255 - grey, photometric="miniswhite"),
        "tiff grey 12": tiff(grey.astype(np.uint16) * 16, bitspersample=12),
        "tiff grey 32": tiff(deep.astype(np.uint32) * 65537),
        "tiff grey float32": tiff(real),
        "tiff grey float32 lzw": tiff(real, compression="lzw"),
        "bmp grey": by_pillow(grey, "BMP"),
        "gif grey": by_pillow(grey, "GIF"),
    }


def palette_kinds(image: np.ndarray) -> dict[str, bytes]:
    """Kinds that hold few colours only."""
    return {
        "png palette": by_pillow(image, "PNG", "P"),
        "png palette transparent": by_pillow(image, "PNG", "P", transparency=0),
        "png 1 bit": by_pillow(image, "PNG", "1"),
        "tiff palette": by_pillow(image, "TIFF", "P"),
        "tiff 1 bit": by_pillow(image, "TIFF", "1"),
        "tiff 1 bit fax": by_pillow(image, "TIFF", "1", compression="group4"),
        "bmp palette": by_pillow(image, "BMP", "P"),
        "gif": by_pillow(
            image, "GIF", save_all=True, append_images=[Image.fromarray(255 - image)]
        ),
    }


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Cut off, with bytes changed, moved or left out; headers more than the rest."""
    data = bytearray(data)
    kind = rng.choice(["cut", "change", "change", "change", "move", "drop"])
    at = rng.randrange(len(data))
    if kind == "cut":
        del data[at:]
    elif kind == "change":
        for _ in range(rng.choice([1, 1, 2, 4, 16])):
            at = rng.randrange(min(len(data), rng.choice([200, len(data)])))
            flipped = data[at] ^ (1 << rng.randrange(8))
            data[at] = rng.choice([0, 255, rng.randrange(256), flipped])
    elif kind == "move":
        start, length = rng.randrange(len(data)), rng.randrange(1, 64)
        data[at : at + length] = data[start : start + length]
    else:
        del data[at : at + rng.randrange(1, 200)]
    return bytes(data)


def lists(rng: random.Random) -> bytes:
    """A list of images in some layout and encoding."""
    delimiter = rng.choice([" ", "\t", ",", ";", "|"])
    rows = [["a.jpg", "m.png", "e.png", "1"], ["dir\\b.jpg", "None", "", "0"]]
    rows += [["été.jpg", "", "", rng.choice(["True", "fake", "0.0", "nan"])]]
    if rng.random() < 0.5:
        rows.insert(0, ["image", "mask", "edge", "label"])
    if rng.random() < 0.3:
        rows = [[f'"{cell}"' for cell in row] for row in rows]
    text = "\n".join(delimiter.join(row) for row in rows * rng.randrange(1, 4))
    return text.encode(rng.choice(["utf-8", "utf-8-sig", "utf-16", "cp1252"]))


def weight_files() -> list[bytes]:
    """Small weight files of every kind that is read."""
    import safetensors.numpy

    from tests.test_weights import contents, write_legacy, write_zip

    arrays = {"a.weight": np.arange(6, dtype=np.float32), "b": np.ones((2, 3))}
    npz = io.BytesIO()
    np.savez_compressed(npz, **arrays)
    found = [npz.getvalue(), safetensors.numpy.save(arrays)]
    with tempfile.TemporaryDirectory() as folder:
        for write in (write_zip, write_legacy):
            path = pathlib.Path(folder, "w.pth")
            content, storages, _ = contents()
            write(path, {"model": content, "epoch": 3}, storages)
            found.append(path.read_bytes())
    return found


def one_input(kind: str, rng: random.Random, folder: pathlib.Path, max_pixels: int):
    """A function that makes a damaged input, and one that reads it."""
    path = folder / "input"
    if kind == "images":
        files = kinds(smooth()) | grey_kinds(smooth()[..., 0]) | palette_kinds(smooth())
        files = list((files | modern_kinds(smooth())).values())

        def read(data):
            reader = rng.choice([images.read_image, images.read_mask])
            planes = reader(data, max_pixels=max_pixels)
            assert planes.dtype == np.uint8 and planes.ndim == 3 and planes.size

        return (lambda: damaged(rng.choice(files), rng)), read
    if kind == "lists":

        def read(data):
            path.write_bytes(data)
            entries, rejected = read_list(path)
            assert entries or rejected
            assert all(entry.label in (0, 1) and entry.name for entry in entries)

        return (lambda: damaged(lists(rng), rng)), read
    files = weight_files()

    def read(data):
        path.write_bytes(data)
        for name, array in read_weights(path).items():
            assert isinstance(name, str) and array.dtype != object

    return (lambda: damaged(rng.choice(files), rng)), read


def heic(image: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(image)).save(file, **options)
    return file.getvalue()


def modern_kinds(image: np.ndarray) -> dict[str, bytes]:
    """What phones and the web write today."""
    return {
        "heic": heic(image, quality=90),
        "avif": by_pillow(image, "AVIF", quality=90),
        "jpeg xl": imagecodecs.jpegxl_encode(image, level=90),
        "jpeg xl container": imagecodecs.jpegxl_encode(image, usecontainer=True),
    }


def fuzz(
    kind: str, seed: int, seconds: float, count: int, max_pixels: int, keep: str | None
):
    """Reads damaged inputs until time or count is up; what is no `InputError` raises.

    `keep` names a file that holds the last input, for when the process dies.
    """
    rng = random.Random(seed)
    end, tried, done, slowest = time.monotonic() + seconds, 0, 0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        make, read = one_input(kind, rng, pathlib.Path(folder), max_pixels)
        while time.monotonic() < end and tried < count:
            data = make()
            if keep:
                pathlib.Path(keep).write_bytes(data)
            start = time.monotonic()
            try:
                read(data)
                done += 1
            except InputError as error:
                assert "\n" not in str(error) and len(str(error)) < 700, str(error)
            slowest = max(slowest, time.monotonic() - start)
            tried += 1
    # `getrusage` would count what the process held before it became this program.
    status = pathlib.Path("/proc/self/status").read_text()
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024
    print(
        f"{tried} {kind}, {done} of them read; slowest {slowest:.2f} s, "
        f"peak memory {peak / 1e6:.0f} MB"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", nargs="?", default="images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--count", type=float, default=float("inf"))
    parser.add_argument("--max_pixels", type=int, default=images.MAX_PIXELS)
    parser.add_argument("--keep")
    fuzz(**vars(parser.parse_args()))
