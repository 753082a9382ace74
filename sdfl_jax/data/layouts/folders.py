"""Sets whose folders say what is real: CIFAKE, 140k faces, CelebA-HQ inpainting."""

import dataclasses
from pathlib import Path

from sdfl_jax.data.layouts.common import (
    TRAIN_VAL,
    Found,
    Item,
    Options,
    Refused,
    image_files,
    match_masks,
    missing_folder,
    open_root,
    split_of,
)

_FAKE = ("fake", "synthetic")


def cifake(root: Path, options: Options) -> Found:
    """CIFAKE: train|test/REAL|FAKE; validation images are taken from train/."""
    return _by_folders(root, options, source="cifake", splits=("train", "test"))


def faces140k(root: Path, options: Options) -> Found:
    """140k real and fake faces: train|valid|test/real|fake."""
    splits = ("train", "valid", "test")
    return _by_folders(root, options, source="faces140k", splits=splits)


def real_fake_folders(root: Path, options: Options) -> Found:
    """Any real/ beside fake/ or synthetic/, below train|val|test/ or not.

    The name of the folder is the source, fake or synthetic the kind.
    """
    return _by_folders(root, options, source=root.resolve().name, splits=())


def _by_folders(root: Path, options: Options, source: str, splits) -> Found:
    root = open_root(root)
    items, refused, empty = [], [], {"real", "fake or synthetic"}
    for path in image_files(root, skip=options.out):
        folders = [part.lower() for part in path.relative_to(root).parts[:-1]]
        told = [name for name in folders if name == "real" or name in _FAKE]
        if not told:
            reason = "unknown folder: neither real nor fake nor synthetic"
            refused.append(Refused(str(path), reason))
            continue
        label = int(told[-1] in _FAKE)
        empty.discard("fake or synthetic" if label else "real")
        items.append(
            Item(
                image=str(path),
                label=label,
                source=source,
                kind=told[-1] if label else "",
                split=split_of(path, root),
            )
        )
    seen = {(item.split, item.label) for item in items}
    for split in splits:
        for label, name in enumerate(("real", "fake")):
            if (split.replace("valid", "val"), label) not in seen:
                refused.append(missing_folder(root / split / name))
    if not splits:
        refused += [missing_folder(root / name) for name in sorted(empty)]
    return _with_validation(items), refused


def celebahq_inpainting(root: Path, options: Options) -> Found:
    """CelebA-HQ inpainted (Dolos): fake/GENERATOR/{images,masks}/, real/.

    Below them train|valid|test/ or nothing. A fake has the file name of the photograph
    it was made of. Masks hold 0 = manipulated.
    """
    root = open_root(root)
    real, images, masks = [], {}, {}
    for path in image_files(root, skip=options.out):
        folders = list(path.relative_to(root).parts[:-1])
        lower = [name.lower() for name in folders]
        for word, place in (("images", images), ("masks", masks)):
            if word in lower and lower.index(word) > 0:
                generator = lower[lower.index(word) - 1]
                place.setdefault(generator, []).append(path)
                break
        else:
            if "real" in lower:
                real.append(path)
    refused = [] if real else [missing_folder(root / "real")]
    items = []
    for generator in sorted(images.keys() | masks.keys()):
        for word, place in (("images", images), ("masks", masks)):
            if generator not in place:
                refused.append(missing_folder(root / "fake" / generator / word))
        key = lambda path: f"{split_of(path, root)}/{path.stem.lower()}"
        pairs, unmatched = match_masks(
            images.get(generator, []), masks.get(generator, []), key, key
        )
        refused += unmatched
        items += [
            Item(
                image=str(path),
                mask=str(mask),
                convert="inverted",
                label=1,
                source="celebahq_inpainting",
                kind=generator,
                parents=(f"celebahq/{path.stem}",),
                split=split_of(path, root),
            )
            for path, mask in pairs.items()
        ]
    if not images:
        refused.append(missing_folder(root / "fake"))
    items += [
        Item(
            image=str(path),
            label=0,
            source="celebahq_inpainting",
            parents=(f"celebahq/{path.stem}",),
            split=split_of(path, root),
        )
        for path in real
    ]
    return _with_validation(items), refused


def _with_validation(items: list[Item]) -> list[Item]:
    """Without images to validate on, some of those to train on shall serve."""
    splits = {item.split for item in items}
    if "train" not in splits or "val" in splits:
        return items
    return [
        dataclasses.replace(item, split=TRAIN_VAL) if item.split == "train" else item
        for item in items
    ]
