r"""Makes a data set of TFDS out of shards or lists; TensorFlow is not needed.

python -m sdfl_jax.data.tfds_builder --name=casia --data_dir=DIR \
    --train=shards/train --test=paths_test.csv

Each split comes from a folder of shards or from a paths file. Anyone who has
`tensorflow_datasets` then reads it, with no code of ours:

    import tensorflow_datasets as tfds
    examples = tfds.data_source("sdfl/casia", split="train", data_dir=DIR)
    examples[0]["image"]  # uint8 H W 3; also mask, label, has_mask, name, source, ...

Images and masks are stored as PNG, in the very pixels that the shards decode to: the
decoders of other libraries treat orientation, colours or depth in other ways. This
takes more room than JPEG files do.
"""

import argparse
from collections.abc import Sequence

from sdfl_jax.data.lists import SPLITS, add_list_arguments
from sdfl_jax.errors import one_line


@one_line
def main(argv: Sequence[str] | None = None):
    parser = argparse.ArgumentParser(
        prog="sdfl data tfds",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--name", required=True, help="it becomes sdfl/NAME")
    add("--data_dir", required=True, help="folder of TFDS data sets")
    for split in SPLITS:
        add(f"--{split}", metavar="PATH", help="folder of shards or list of images")
    add_list_arguments(parser)
    arguments = vars(parser.parse_args(argv))
    splits = {split: arguments.pop(split) for split in SPLITS}
    splits = {split: path for split, path in splits.items() if path is not None}
    name, data_dir = arguments.pop("name"), arguments.pop("data_dir")
    # Imported late: help and mistakes are told within a second.
    from sdfl_jax.data.setup import setup
    from sdfl_jax.data.tfds_builder.sdfl_dataset_builder import prepare

    setup()
    builder = prepare(name, data_dir, splits, **arguments)
    for split, info in builder.info.splits.items():
        print(f"sdfl/{name}, {split}: {info.num_examples} examples.")


if __name__ == "__main__":
    main()
