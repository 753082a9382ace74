"""What a training step of a config takes, told by the compiler; nothing is trained.

python -m sdfl_jax.main --config=configs/sdfl.py --dry_run
"""

import math

import jax
import jax.numpy as jnp
import ml_collections as mlc

from sdfl_jax.config import check
from sdfl_jax.devices import sharding
from sdfl_jax.models import init_variables
from sdfl_jax.state import init_state
from sdfl_jax.training.experiment import Experiment, build

GIB = 2**30
CARDS = (16, 32, 80)  # GB of memory of V100s, and of A100 and H100
USABLE = 0.9  # of a card's memory: the rest is the driver's, libraries' and gaps


def dry_run(config: mlc.ConfigDict) -> dict:
    """Compiles the training step on the devices present, without data; prints it all.

    Returns what it prints: `parameters`, `mesh`, `gmac_per_step` and `gmac_per_image`
    (half the compiler's count of operations, all devices together), `memory` in bytes
    on each device (see `memory`), `collectives` in bytes per step by kind; estimates
    for other devices: `memory_elsewhere` in bytes, `constant` and `per_image` (of those
    that one device holds), and `largest_batch` for cards of 16, 32 and 80 GB.
    """
    config = check(config)
    experiment = build(config, config.total_steps or 1)
    compiled = compile_step(experiment, config.batch_size)
    devices = experiment.mesh.size
    # Operations that the compiler puts into library calls are not in its count.
    operations = compiled.cost_analysis().get("flops", 0) * devices
    state = abstract_state(experiment)
    found = {
        "parameters": sum(math.prod(x.shape) for x in jax.tree.leaves(state.params)),
        "mesh": dict(experiment.mesh.shape),
        "device": jax.devices()[0].device_kind,
        "gmac_per_step": operations / 2e9,
        "gmac_per_image": operations / 2e9 / config.batch_size,
        "memory": memory(compiled),
        "collectives": sharding.collectives(compiled.as_text()),
    }
    estimate = _memory_elsewhere(experiment, found["memory"]["total"])
    found["memory_elsewhere"] = estimate
    found["largest_batch"] = _largest_batches(experiment, **estimate)
    _show(found, config.batch_size)
    return found


def abstract_state(experiment: Experiment):
    """The state's shapes and where they lie, without one number of it."""
    config = experiment.config

    def fresh(rng):
        return init_state(
            init_variables(experiment.model, config.image_size, rng),
            experiment.tx,
            precision=experiment.precision,
            ema=config.ema > 0,
        )

    def placed(x):
        layout = sharding.of_state(x.shape, experiment.mesh, config.mesh.shard_state)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout)

    return jax.tree.map(placed, jax.eval_shape(fresh, jax.random.key(0)))


def compile_step(experiment: Experiment, batch_size: int) -> jax.stages.Compiled:
    """The training step for batches of this size."""
    side = experiment.config.image_size
    shapes = {
        "image": ((side, side, 3), jnp.uint8),
        "mask": ((side, side, 1), jnp.uint8),
        "label": ((), jnp.float32),
        "has_mask": ((), jnp.float32),
        "index": ((), jnp.int32),
    }
    if "jpeg" in experiment.config.data.inputs:
        shapes |= {"dct": ((side, side), jnp.int16), "qtable": ((8, 8), jnp.float32)}
    batch = {
        name: jax.ShapeDtypeStruct(
            (batch_size, *shape),
            dtype,
            sharding=sharding.of_batch(1 + len(shape), experiment.mesh),
        )
        for name, (shape, dtype) in shapes.items()
    }
    return experiment.train_step.lower(abstract_state(experiment), batch).compile()


def memory(compiled) -> dict[str, int]:
    """Bytes on each device: arguments (state and batch), temporaries, and in all."""
    sizes = compiled.memory_analysis()
    return {
        "arguments": sizes.argument_size_in_bytes,
        "temporaries": sizes.temp_size_in_bytes,
        # The new state takes the place of the old one, which is donated.
        "total": sizes.argument_size_in_bytes
        + sizes.temp_size_in_bytes
        + sizes.output_size_in_bytes
        - sizes.alias_size_in_bytes
        + sizes.generated_code_size_in_bytes,
    }


def _memory_elsewhere(experiment: Experiment, total: int) -> dict[str, float]:
    """A constant and a share per image on one device, from two compilations.

    `total` is what a device needs at the config's batch size.
    """
    config, split = experiment.config, experiment.mesh.shape["data"]
    part = split * config.accumulate_steps
    size, other = config.batch_size, max(part, config.batch_size // 2 // part * part)
    if other == size:
        other = 2 * size
    other_total = memory(compile_step(experiment, other))["total"]
    per_image = (other_total - total) / (other - size) * split
    return {"constant": total - per_image * size / split, "per_image": per_image}


def _largest_batches(
    experiment: Experiment, constant: float, per_image: float
) -> dict[int, int]:
    """The largest batch over all devices by memory of each, in GB; 0 if none fits."""
    split = experiment.mesh.shape["data"]
    part = split * experiment.config.accumulate_steps
    return {
        card: max(0, int((card * 1e9 * USABLE - constant) / per_image * split))
        // part
        * part
        for card in CARDS
    }


def _show(found: dict, batch_size: int):
    sizes = {name: f"{size / GIB:.2f} GiB" for name, size in found["memory"].items()}
    mesh = " x ".join(f"{name} {size}" for name, size in found["mesh"].items())
    moved = ", ".join(
        f"{name} {size / 2**20:.1f} MiB" for name, size in found["collectives"].items()
    )
    batches = ", ".join(
        f"{batch or 'none'} with {card} GB"
        for card, batch in found["largest_batch"].items()
    )
    constant, image = (size / GIB for size in found["memory_elsewhere"].values())
    images = batch_size / found["mesh"]["data"]
    lines = {
        "parameters": f"{found['parameters']:,}",
        "devices": f"{mesh}, {found['device']}",
        "work": f"{found['gmac_per_step']:,.1f} GMAC per step of {batch_size} images, "
        f"{found['gmac_per_image']:,.1f} per image (forward, backward, update)",
        "memory per device": f"{sizes['total']} here, by the compiler: "
        f"{sizes['arguments']} state and batch, {sizes['temporaries']} temporaries",
        "collectives": f"{moved or 'none'} per step and device",
        "other devices": "an estimate from the program compiled for "
        f"{found['device']}; theirs differ:",
        "  memory per device": f"{constant + images * image:.2f} GiB: {constant:.2f} "
        f"GiB, and {image:.2f} GiB for each of {images:g} images",
        "  largest batch": f"{batches} on each device",
    }
    width = max(map(len, lines))
    for name, line in lines.items():
        print(f"{name:{width}}  {line}")
