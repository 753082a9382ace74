"""Builds a data set of TFDS from shards or from lists of images."""

import io
import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow_datasets as tfds

from sdfl_jax.data import images, records
from sdfl_jax.data.build import shards
from sdfl_jax.data.lists import Rejected, nothing_usable, read_list
from sdfl_jax.errors import InputError


class Sdfl(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builds `sdfl/NAME`; unregistered, so that reading needs the prepared files only.

    `sources` maps splits to iterators of examples as `records.decode` gives them.
    """

    name = "sdfl"
    VERSION = tfds.core.Version("1.0.0")
    url_infos = None  # nothing is downloaded, so there are no checksums to look for

    def __init__(self, *, sources: Mapping[str, Iterator[dict]], **settings):
        self._sources = sources
        super().__init__(file_format="array_record", **settings)

    def _info(self) -> tfds.core.DatasetInfo:
        plane = tfds.features.Image
        features = {
            "image": plane(shape=(None, None, 3), encoding_format="png"),
            "mask": plane(shape=(None, None, 1), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=["authentic", "manipulated"]),
            "has_mask": np.bool_,
            **{key: tfds.features.Text() for key in _TEXTS},
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Photographs and masks of their manipulated pixels (255).",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            disable_shuffling=True,  # the order of the list
        )

    def _split_generators(self, dl_manager):
        return {
            split: self._generate_examples(examples)
            for split, examples in self._sources.items()
        }

    def _generate_examples(self, examples):
        for index, example in enumerate(examples):
            yield (
                index,
                {
                    "image": _png(example["image"]),
                    "mask": _png(example["mask"][..., 0]),
                    "label": example["label"],
                    "has_mask": example["has_mask"],
                    # File names that are no UTF-8 are bytes here as well.
                    **{
                        key: example[key].encode(errors="surrogateescape")
                        for key in _TEXTS
                    },
                },
            )


_TEXTS = ("name", "source", "group", "kind")


def prepare(
    name: str,
    data_dir: str | os.PathLike,
    splits: Mapping[str, str | os.PathLike],
    *,
    root: str | None = None,
    replace: Sequence[str] = (),
    mask_inverted: bool = False,
    mask_as_stored: bool = False,
) -> Sdfl:
    """Writes `sdfl/NAME` below `data_dir` and returns its builder.

    `splits` maps names of splits to folders of shards or paths files; the keywords are
    for the latter and mean what they do in `sdfl_jax.data.build`. Lines that cannot be
    used are left out and told. `InputError` if there is such a data set already, or a
    split has no examples.
    """
    folder = os.path.join(os.fspath(data_dir), Sdfl.name, name)
    if not name.isidentifier():
        raise InputError(f"--name={name}: letters, digits and _ are expected.")
    if not splits:
        raise InputError("no split: give --train, --val or --test.")
    target = os.path.join(folder, str(Sdfl.VERSION))
    if os.path.exists(target):
        raise InputError(f"{target}: exists already; delete it or choose another name.")
    sources = {
        split: _from_shards(path)
        if os.path.isdir(path)
        else _from_list(
            path,
            root,
            replace,
            {"mask_inverted": mask_inverted, "mask_as_stored": mask_as_stored},
        )
        for split, path in splits.items()
    }
    builder = Sdfl(
        sources=sources,
        data_dir=data_dir,
        config=tfds.core.BuilderConfig(name=name),
    )
    builder.download_and_prepare()
    return builder


def _from_shards(folder: str | os.PathLike) -> Iterator[dict]:
    source = records.RecordSource(folder)
    return (records.decode(source[index]) for index in range(len(source)))


def _from_list(path, root, replace, masks: dict) -> Iterator[dict]:
    """Examples of the usable lines, exactly as shards of them would hold."""
    entries, rejected = read_list(path, root=root, replace=replace)
    settings = masks | {"storage": "original", "image_size": 0}

    def examples():
        lost = list(rejected)
        for entry in entries:
            try:
                record, _ = shards.make_record(entry, settings)
            except InputError as error:
                print(f"{path}, line {entry.line}: {error}")
                reason = str(error).removeprefix(f"{entry.image}: ")
                lost.append(Rejected(line=entry.line, path=entry.image, reason=reason))
                continue
            yield records.decode(record)
        if lost:
            total = len(entries) + len(rejected)
            print(f"{path}: {len(lost)} of {total} lines rejected.")
            if len(lost) == total:
                raise nothing_usable(path, entries, lost)

    return examples()


def _png(plane: np.ndarray) -> io.BytesIO:
    """A file, for arrays would be encoded by TensorFlow."""
    return io.BytesIO(images.encode_png(plane))
