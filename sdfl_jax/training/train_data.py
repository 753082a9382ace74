"""The batches that a config asks for: of shards, or forged while it trains."""

from collections.abc import Iterator

import jax
import ml_collections as mlc
import numpy as np

from sdfl_jax.data import pipeline
from sdfl_jax.data.forge import stream
from sdfl_jax.errors import InputError


def steps_per_epoch(config: mlc.ConfigDict) -> int:
    """See `pipeline.steps_per_epoch` and `stream.steps_per_epoch`."""
    if stream.is_stream(config.data.train):
        return stream.steps_per_epoch(config.data.train, config.batch_size)
    return pipeline.steps_per_epoch(
        config.data.train, config.batch_size, balance=config.data.balance
    )


def train_batches(
    config: mlc.ConfigDict, start_step: int
) -> Iterator[dict[str, np.ndarray]]:
    """This process's part of each batch from step `start_step` on.

    `data.geometry` and `data.balance` are for shards: a stream forges examples of
    `config.image_size`, and its shares are its own, as those of a mix are.
    """
    data = config.data
    settings = dict(
        batch_size=config.batch_size,
        image_size=config.image_size,
        seed=config.seed,
        flips=data.flips,
        process=jax.process_index(),
        processes=jax.process_count(),
        workers=data.workers,
        start_step=start_step,
    )
    if stream.is_stream(data.train):
        if "jpeg" in data.inputs:
            raise InputError(
                "config.data.inputs: photographs that are forged on the way are in no "
                "JPEG file; make shards of them (sdfl data forge, sdfl data build)."
            )
        return stream.train_batches(data.train, **settings)
    return pipeline.train_batches(
        data.train,
        geometry=data.geometry,
        balance=data.balance,
        inputs=tuple(data.inputs),
        **settings,
    )
