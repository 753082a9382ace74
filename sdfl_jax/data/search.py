"""Folders searched for images: what is in them is read, named, or no image at all."""

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from sdfl_jax import stores
from sdfl_jax.errors import InputError
from sdfl_jax.files import replacing

# What a folder is searched for; a file that is named is read whatever its ending.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".tif", ".tiff"),
    *(".bmp", ".dib", ".webp", ".gif", ".avif", ".heic", ".heif", ".hif", ".jxl"),
)

# Endings of images that no reader here knows.
_UNREAD = (
    *(".jp2", ".j2k", ".jpf", ".jpx", ".jpm", ".j2c", ".jxr", ".hdp", ".wdp", ".jls"),
    *(".psd", ".psb", ".xcf", ".svg", ".eps", ".ai", ".exr", ".hdr", ".tga", ".pcx"),
    *(".pbm", ".pgm", ".ppm", ".pnm", ".pfm", ".ico", ".dds", ".qoi", ".bpg", ".flif"),
    *(".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".raf", ".orf"),
    *(".rw2", ".pef", ".srw", ".x3f", ".raw", ".3fr", ".iiq", ".dcm", ".fits", ".xbm"),
)

# Lies in a folder that a program of this package filled, and is not searched again.
OUTPUT = ".sdfl_output"

_SYSTEM = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information")
_told: set[str] = set()


def find(
    paths: Iterable[str | os.PathLike],
    suffixes: tuple[str, ...] = SUFFIXES,
    skip: Iterable[str | os.PathLike] = (),
    *,
    in_stores: bool = False,
) -> list[stores.AnyPath]:
    """The files among `paths`, and those of `suffixes` anywhere below its folders.

    Nothing below a folder of `skip` is found, and an address (`stores`) is one of a
    store only with `in_stores`. `InputError` for a path that there is not and for a
    folder without any such file.
    """
    found = []
    for path in paths:
        if in_stores and stores.is_address(path) and not _WEB.match(str(path)):
            found += _in_store(str(path), suffixes, skip)
            continue
        if stores.is_address(path):
            raise InputError(f"{path}: an address on the net; download it first.")
        path = Path(path).expanduser()
        if path.is_dir():
            below = files_below(path, suffixes, skip)
            if not below:
                raise InputError(f"{path}: no image in it ({', '.join(suffixes)}).")
            found += below
        elif path.exists():
            found.append(path)
        else:
            raise InputError(f"{path}: no such file or folder.")
    return found


_WEB = re.compile("(https?|ftp):", re.IGNORECASE)


def _in_store(address: str, suffixes, skip) -> list[stores.Address]:
    """`files_below` of a store, or the file that is there."""
    everything = stores.below(address)
    if not everything:
        raise InputError(f"{address}: no such file or folder.")
    if everything == [address]:
        return [stores.Address(address)]
    closed = [f"{path}/" for path in map(str, skip)]
    closed += [
        path.removesuffix(OUTPUT) for path in everything if path.endswith(OUTPUT)
    ]
    found = [
        stores.Address(path)
        for path in everything
        if path.lower().endswith(suffixes) and not path.startswith(tuple(closed))
    ]
    if not found:
        raise InputError(f"{address}: no image in it ({', '.join(suffixes)}).")
    return found


def files_below(
    folder: str | os.PathLike,
    suffixes: tuple[str, ...] = SUFFIXES,
    skip: Iterable[str | os.PathLike] = (),
) -> list[Path]:
    """Files of `suffixes` anywhere below a folder, sorted; links are followed.

    What looks like an image and is not read is told on standard error, once, and so is
    a folder that cannot be opened. Left out without a word are hidden files, what
    systems leave behind, and output of this package.
    """
    skip = {os.path.realpath(os.path.expanduser(path)) for path in skip}
    found, unread, closed, outputs = [], [], [], []
    for place, folders, names in _walk(os.fspath(folder), closed.append):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and name not in _SYSTEM
            and os.path.realpath(os.path.join(place, name)) not in skip
        ]
        for name in list(folders):
            if os.path.exists(os.path.join(place, name, OUTPUT)):
                folders.remove(name)
                outputs.append(os.path.join(place, name))
        for name in names:
            ending = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if ending in suffixes:
                found.append(Path(place, name))
            elif ending in _UNREAD + SUFFIXES:
                unread.append(os.path.join(place, name))
    _tell(folder, "files that look like images are not read", unread)
    _tell(folder, "folders cannot be opened", closed)
    _tell(folder, "folders are left out as output of this program", outputs)
    return sorted(found)


def mark_output(folder: str | os.PathLike):
    """Has `find` pass a folder by, which is made if need be."""
    if stores.is_address(folder):
        with replacing(os.path.join(folder, OUTPUT)) as beside:
            beside.touch()
        return
    os.makedirs(folder, exist_ok=True)
    Path(folder, OUTPUT).touch()


def _walk(folder: str, on_closed: Callable) -> Iterator[tuple[str, list, list]]:
    """`os.walk` through links, to each target once and never back to where it is."""
    followed = set()

    def inside(place: str, above: frozenset):
        try:
            with os.scandir(place) as entries:
                entries = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            on_closed(place)
            return
        above |= {os.path.realpath(place)}
        folders = [entry.name for entry in entries if entry.is_dir()]
        links = {entry.name for entry in entries if entry.is_symlink()}
        yield place, folders, [e.name for e in entries if not e.is_dir()]
        for name in folders:
            below = os.path.join(place, name)
            target = os.path.realpath(below)
            if name in links and (target in above or target in followed):
                continue
            if name in links:
                followed.add(target)
            yield from inside(below, above)

    return inside(folder, frozenset())


def _tell(folder, what: str, paths: list[str]):
    new = [path for path in paths if path not in _told]
    _told.update(new)
    if new:
        names = [os.path.relpath(path, folder) for path in new[:3]]
        more = f" and {len(new) - 3} more" if len(new) > 3 else ""
        text = f"{folder}: {len(new)} {what}: {', '.join(names)}{more}."
        print(text.encode(errors="backslashreplace").decode(), file=sys.stderr)
