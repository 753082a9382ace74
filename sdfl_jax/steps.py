"""The compiled computations: one training step, one step of evaluation."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from sdfl_jax import explain, losses, models, optim
from sdfl_jax.devices import compiled, sharding
from sdfl_jax.errors import InputError, valid
from sdfl_jax.models import canvas, freezing
from sdfl_jax.models.layers import grey
from sdfl_jax.state import TrainState

DTYPES = {
    "float32": jnp.float32,
    "bfloat16": jnp.bfloat16,
    "float16": jnp.float16,
}
# float16: the loss scale is tried twice as high after so many good steps in a row.
LOSS_SCALE_PATIENCE = 2000


def choose_precision(precision: str, device=None) -> tuple[str, str]:
    """A name of `DTYPES` for "auto" (others stay as they are), and the reason.

    Raises InputError for another name.
    """
    if precision in DTYPES:
        return precision, "as asked"
    if precision != "auto":
        names = ["auto", *DTYPES]
        raise InputError(f"config.precision={precision!r}; {valid(precision, names)}")
    device = device or jax.devices()[0]
    if device.platform == "cpu":
        return "float32", "a CPU is no faster in fewer bits"
    if device.platform != "gpu":
        return "bfloat16", f"a {device.platform.upper()} is made for it"
    capability = float(device.compute_capability)
    if capability >= 8.0:
        return "bfloat16", f"compute capability {capability}"
    if capability >= 7.0:
        return "float16", f"compute capability {capability} has no bfloat16"
    return "float32", f"compute capability {capability} has no tensor cores"


def make_train_step(
    model,
    tx,
    mesh: Mesh,
    *,
    seed: int = 0,
    accumulate_steps: int = 1,
    dynamic_loss_scale: bool = False,
    ema: float = 0.0,
    shard_state: bool = False,
    freeze: Sequence[str] = (),
    **loss_settings,
):
    """Compiles one step; the batch is split over the mesh, the state if asked to.

    Args:
      model: a network of `sdfl_jax.models`.
      tx: an optax transformation.
      mesh: devices, see `sharding.make_mesh`.
      seed: of dropout, together with the step.
      accumulate_steps: parts of the batch that are worked off one after the other;
        their gradients are averaged. Every part starts from the same running
        statistics, which then move by the mean over the parts: the mathematics of
        one step whose batch norm has groups (`bn_group`) of a part's size. Losses that
        are means over images agree with the plain step where each part has equally
        many images to count (with masks, manipulated); Dice over the flattened batch
        does not, it is taken part by part.
      dynamic_loss_scale: for float16; halves where a gradient overflows.
      ema: share of the averaged params that a step keeps; 0 keeps no average.
      shard_state: splits params and optimizer state over `data` between the steps.
      freeze: patterns (`sdfl_jax.trees.patterns`) of params that a step leaves as they
        are, with the statistics of their batch norms.
      **loss_settings: what `losses.total` takes beside outputs and batch.

    Returns:
      `train_step(state, batch) -> (state, scalars)`. `batch` is what
      `pipeline.train_batches` delivers, on the mesh; `state` is donated. Batch norm
      sees the global batch, because under `jit` a mean over B is a mean over all
      devices. A step whose loss or gradient is not finite changes nothing but the
      counters and the loss scale.
    """

    def scale_of(state: TrainState):
        """A constant where nothing is scaled, so that the compiler leaves it out."""
        return state.loss_scale if dynamic_loss_scale else 1.0

    def gradients(params, state: TrainState, arrays: dict, part):
        """Of the scaled loss; loss, terms and moved statistics beside them."""
        rng = jax.random.fold_in(jax.random.key(seed), state.step)

        def loss_fn(params):
            params = freezing.stop_gradients(params, freeze)
            with freezing.frozen_norms(freeze):
                outputs, updated = model.apply(
                    {"params": params, "batch_stats": state.batch_stats},
                    arrays["image"],
                    **models.inputs_of(arrays),
                    train=True,
                    mutable=["batch_stats"],
                    rngs={"dropout": jax.random.fold_in(rng, part)},
                )
            loss, terms = losses.total(outputs, arrays, **loss_settings)
            called = outputs.image_score() >= 0.5
            told = {"loss": loss, "accuracy": (called == (arrays["label"] > 0)).mean()}
            stats = updated.get("batch_stats", {})
            return loss * scale_of(state), (told | terms, stats)

        (_, aux), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        return grads, *aux

    def accumulated(params, state, batch):
        """The means over the parts, worked off one after the other."""

        def one(total, part_and_arrays):
            part, arrays = part_and_arrays
            result = gradients(params, state, _to_unit_range(arrays), part)
            return jax.tree.map(jnp.add, total, result), None

        parts = {
            name: _parts(array, accumulate_steps, mesh) for name, array in batch.items()
        }
        first = jax.tree.map(lambda x: x[0], parts)
        shapes = jax.eval_shape(
            lambda arrays: gradients(params, state, _to_unit_range(arrays), 0), first
        )
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        total, _ = jax.lax.scan(one, zeros, (jnp.arange(accumulate_steps), parts))
        return jax.tree.map(lambda x: x / accumulate_steps, total)

    def train_step(state: TrainState, batch):
        params = models.project(sharding.constrain(state.params, mesh, False))
        if accumulate_steps > 1:
            grads, terms, batch_stats = accumulated(params, state, batch)
        else:
            grads, terms, batch_stats = gradients(
                params, state, _to_unit_range(batch), 0
            )
        grads = jax.tree.map(lambda g: g / scale_of(state), grads)
        grads = sharding.constrain(grads, mesh, shard_state)
        params = sharding.constrain(params, mesh, shard_state)
        norm = optax.tree.norm(grads)
        updates, opt_state = tx.update(grads, state.opt_state, params)
        finite = jnp.isfinite(terms["loss"]) & jnp.isfinite(norm)
        keep = lambda new, old: jax.tree.map(
            functools.partial(jnp.where, finite), new, old
        )
        params = keep(optax.apply_updates(params, updates), state.params)
        params = freezing.put_back(params, state.params, freeze)
        unscaled = {"loss_scale": state.loss_scale, "good_in_row": state.good_in_row}
        average = lambda old, new: jnp.where(finite, ema * old + (1 - ema) * new, old)
        state = TrainState(
            step=state.step + 1,
            params=params,
            batch_stats=keep(batch_stats, state.batch_stats),
            opt_state=keep(opt_state, state.opt_state),
            skipped=state.skipped + ~finite,
            skipped_in_row=jnp.where(finite, 0, state.skipped_in_row + 1),
            **(_next_loss_scale(state, finite) if dynamic_loss_scale else unscaled),
            ema=freezing.put_back(
                jax.tree.map(average, state.ema, params), state.ema, freeze
            )
            if ema
            else state.ema,
        )
        told = {name: terms.pop(name) for name in ("loss", "accuracy")}
        scalars = told | {f"loss/{name}": term for name, term in terms.items()}
        scalars |= {
            "grad_norm": norm,
            "skipped": state.skipped,
            "skipped_in_row": state.skipped_in_row,
        }
        rate = optim.applied_rate(state.opt_state)
        if rate is not None:
            scalars["learning_rate"] = rate
        if dynamic_loss_scale:
            scalars["loss_scale"] = state.loss_scale
        scalars = sharding.constrain(scalars, mesh, False)
        return sharding.constrain(state, mesh, shard_state), scalars

    return jax.jit(train_step, donate_argnames="state")


def _parts(array, count: int, mesh: Mesh):
    """(B ...) as (count B/count ...), each part of consecutive rows on all devices."""
    parts = array.reshape(count, -1, *array.shape[1:])
    layout = sharding.of_batch(array.ndim, mesh)
    layout = layout.update(spec=jax.sharding.PartitionSpec(None, *layout.spec))
    return jax.lax.with_sharding_constraint(parts, layout)


def _next_loss_scale(state: TrainState, finite) -> dict:
    """Half after an overflow; twice after so many good steps in a row, up to 2^24.

    As `flax.training.dynamic_scale.DynamicScale` counts, which cannot stand here: it
    differentiates one whole loss, where an accumulated step has a gradient of each part
    (through all parts at once it would keep the activations of all), and it does not
    look whether the loss itself is finite.
    """
    good = state.good_in_row + 1
    due = good >= LOSS_SCALE_PATIENCE
    higher = jnp.where(
        due, jnp.minimum(2 * state.loss_scale, 2.0**24), state.loss_scale
    )
    lower = jnp.maximum(state.loss_scale / 2, 1.0)
    return {
        "loss_scale": jnp.where(finite, higher, lower),
        "good_in_row": jnp.where(finite & ~due, good, 0),
    }


def make_evaluate_step(
    model,
    mesh: Mesh,
    *,
    flips: bool = False,
    one_by_one: bool = False,
    image_level_mask: str = "grey",
    **loss_settings,
):
    """Compiles the forward pass with running statistics, and the loss beside it.

    Args:
      model: a network of `sdfl_jax.models`.
      mesh: devices, see `sharding.make_mesh`.
      flips: averages probabilities and scores over the image and its three mirror
        images; the loss stays that of the image itself.
      one_by_one: each device works its rows off one after the other. What comes out is
        then the same to the bit for every batch size and number of devices, where the
        platform's operations are deterministic, as they are on a CPU. Rows that are not
        `valid` take no time, and their answers are zeros.
      image_level_mask: one of IMAGE_LEVEL_MASKS, what stands for the mask of a network
        that gives none: "grey" is the image in grey levels, the brightest manipulated,
        as one study did it; "grad_cam" is `explain.grad_cam`.
      **loss_settings: what `losses.total` takes beside outputs and batch.

    Returns:
      `evaluate_step(variables, arrays)`, a dict of `mask_probs` (B H W, float32 in
      [0, 1]), `score` (B, likewise), of networks that have one `confidence` (B H W),
      and `loss`, a dict of (B,): the loss and its terms of each row as if it were the
      batch, so that their mean depends neither on batches nor on processes. Without a
      mask in `arrays`, or without settings, it is empty; else, but for `one_by_one`,
      `batch_loss` is what a training step would call the loss of the `valid` rows
      together. With `extent` in `arrays` (int32 B 2) the rows are canvases
      (`models.canvas`): what lies beyond counts nowhere.
      `variables` lie whole on each device; `arrays` are this process's, on the host.
    """

    _, baseline = _image_level_mask(image_level_mask)

    def predict(variables, images, **more):
        outputs = model.apply(variables, images, **more, train=False)
        if (outputs.mask_logits is not None) != _gives_mask(model):
            raise TypeError(
                f"{type(model).__name__}: `gives_mask` says {_gives_mask(model)}, and "
                "its outputs say the opposite."
            )
        maps = {}
        if outputs.confidence_logits is not None:
            maps["confidence"] = jax.nn.sigmoid(outputs.confidence_logits[..., 0])
        return outputs, maps | {
            "mask_probs": baseline(model, variables, images)
            if outputs.mask_logits is None
            else jax.nn.sigmoid(outputs.mask_logits[..., 0]),
            "score": outputs.image_score(),
        }

    def loss_of(outputs, arrays):
        total, terms = losses.total(outputs, arrays, **loss_settings)
        return {"loss": total} | {f"loss/{name}": t for name, t in terms.items()}

    def evaluate_step(variables, arrays):
        with canvas.of(arrays.get("extent"), arrays["image"].shape[1:3]):
            return answered(variables, _to_unit_range(arrays))

    def answered(variables, arrays):
        more = models.inputs_of(arrays)
        outputs, found = predict(variables, arrays["image"], **more)
        if flips:
            if more:
                raise InputError("--tta=flips: JPEG coefficients cannot be mirrored.")
            for axes in ((1,), (2,), (1, 2)):
                _, other = predict(variables, canvas.flip(arrays["image"], axes))
                other = {
                    name: value if name == "score" else canvas.flip(value, axes)
                    for name, value in other.items()
                }
                found = {name: found[name] + other[name] for name in found}
            found = {name: total / 4 for name, total in found.items()}
        if not loss_settings or "mask" not in arrays:
            return found | {"loss": {}}
        alone = lambda tree: jax.tree.map(lambda x: x[None], tree)
        loss = jax.vmap(lambda o, a: loss_of(alone(o), alone(a)))(outputs, arrays)
        found["loss"] = loss
        if not one_by_one:
            found["batch_loss"], _ = losses.total(outputs, arrays, **loss_settings)
        return found

    def each_row(variables, arrays):
        alone = jax.jit(evaluate_step)  # traced once: for its shapes, and in the loop
        row = lambda i: jax.tree.map(
            lambda x: lax.dynamic_slice_in_dim(x, i, 1), arrays
        )

        def answer(i, found):
            put = lambda all_, one: lax.dynamic_update_slice_in_dim(all_, one, i, 0)
            return jax.tree.map(put, found, alone(variables, row(i)))

        rows = len(arrays["image"])
        blank = lambda x: jnp.zeros((rows, *x.shape[1:]), x.dtype)
        found = jax.tree.map(blank, jax.eval_shape(alone, variables, row(0)))
        # Rows that fill a batch up come last, and nobody looks at their answers.
        count = jnp.sum(arrays["valid"]) if "valid" in arrays else rows
        return lax.fori_loop(0, count, answer, found)

    if one_by_one:
        evaluate = jax.shard_map(
            each_row,
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec("data")),
            out_specs=PartitionSpec("data"),
            check_vma=False,
        )
    else:
        evaluate = evaluate_step
    name = models.identity(model)
    settings = (flips, one_by_one, image_level_mask, sorted(loss_settings.items()))
    step = compiled.traced_once(
        jax.jit(evaluate, in_shardings=(sharding.everywhere(mesh), None)),
        name and repr((name, settings)),
    )
    return lambda variables, arrays: step(variables, sharding.to_global(arrays, mesh))


def mask_source(model, image_level_mask: str = "grey") -> str:
    """Where an evaluation's masks come from: "network", or "baseline: ..."."""
    said, _ = _image_level_mask(image_level_mask)
    return "network" if _gives_mask(model) else said


def _gives_mask(model) -> bool:
    """What the network says of itself; tracing it to see takes half a second."""
    return getattr(model, "gives_mask", True)


def _image_level_mask(name: str):
    if name not in IMAGE_LEVEL_MASKS:
        raise InputError(
            f"No image_level_mask {name!r}; {valid(name, IMAGE_LEVEL_MASKS)}"
        )
    return IMAGE_LEVEL_MASKS[name]


# What `metrics.json` says, and the map that is taken.
IMAGE_LEVEL_MASKS = {
    "grey": (
        "baseline: thresholded grey image",
        lambda model, variables, images: grey(images)[..., 0],
    ),
    "grad_cam": ("baseline: Grad-CAM", explain.grad_cam),
}


def _to_unit_range(batch: dict) -> dict:
    """Images scaled to [0, 1]; masks to 0 or 1, at half of their range.

    Beyond a canvas's extent a mask is -1, which no loss counts.
    """
    arrays = batch | {"image": batch["image"].astype(jnp.float32) / 255}
    if "mask" in batch:
        mask = (batch["mask"] >= 128).astype(jnp.float32)
        arrays["mask"] = canvas.cut_off(mask, -1.0)
    return arrays
