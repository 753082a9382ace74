"""The compiled computations: one training step, one step of evaluation."""

import functools

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from sdfl_jax import losses, models
from sdfl_jax.sharding import everywhere, split
from sdfl_jax.state import TrainState


def make_train_step(model, tx, mesh: Mesh, **loss_settings):
    """Compiles one step: the batch is split over `data`, the state is everywhere.

    Args:
      model: a network of `sdfl_jax.models`.
      tx: an optax transformation.
      mesh: devices in one row named `data`.
      **loss_settings: what `losses.total` takes beside outputs and batch.

    Returns:
      `train_step(state, batch) -> (state, scalars)`. `batch` is what
      `pipeline.train_batches` delivers, on the mesh; `state` is donated. Batch norm
      sees the global batch, because under `jit` a mean over B is a mean over all
      devices. A step whose loss or gradient is not finite changes nothing but the
      counters.
    """

    def train_step(state: TrainState, batch):
        arrays = _to_unit_range(batch)

        def loss_fn(params):
            outputs, updated = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                arrays["image"],
                train=True,
                mutable=["batch_stats"],
            )
            loss, terms = losses.total(outputs, arrays, **loss_settings)
            return loss, (terms, updated.get("batch_stats", {}))

        params = models.project(state.params)
        (loss, (terms, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            params
        )
        norm = optax.tree.norm(grads)
        updates, opt_state = tx.update(grads, state.opt_state, params)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        keep = lambda new, old: jax.tree.map(
            functools.partial(jnp.where, finite), new, old
        )
        state = TrainState(
            step=state.step + 1,
            params=keep(optax.apply_updates(params, updates), state.params),
            batch_stats=keep(batch_stats, state.batch_stats),
            opt_state=keep(opt_state, state.opt_state),
            skipped=state.skipped + ~finite,
            skipped_in_row=jnp.where(finite, 0, state.skipped_in_row + 1),
        )
        scalars = {f"loss/{name}": term for name, term in terms.items()}
        scalars |= {
            "loss": loss,
            "grad_norm": norm,
            "skipped_in_row": state.skipped_in_row,
        }
        return state, scalars

    return jax.jit(
        train_step,
        in_shardings=(everywhere(mesh), split(mesh)),
        out_shardings=everywhere(mesh),
        donate_argnames="state",
    )


def make_evaluate_step(model, mesh: Mesh, **loss_settings):
    """Compiles the forward pass with running statistics, and the loss beside it.

    Returns:
      `evaluate_step(variables, arrays)`, a dict of `mask_probs` (B H W, float32 in
      [0, 1]), `score` (B, likewise) and `loss` (scalars over the rows that are
      `valid`). Without a mask in `arrays`, or without settings, `loss` is empty.
    """

    def evaluate_step(variables, arrays):
        arrays = _to_unit_range(arrays)
        outputs = model.apply(variables, arrays["image"], train=False)
        loss = {}
        if loss_settings and "mask" in arrays:
            total, terms = losses.total(outputs, arrays, **loss_settings)
            loss = {"loss": total} | {f"loss/{name}": t for name, t in terms.items()}
        return {
            "mask_probs": jax.nn.sigmoid(outputs.mask_logits[..., 0]),
            "score": jax.nn.sigmoid(outputs.label_logits),
            "loss": loss,
        }

    return jax.jit(evaluate_step, in_shardings=(everywhere(mesh), split(mesh)))


def _to_unit_range(batch: dict) -> dict:
    """Images scaled to [0, 1]; masks to 0 or 1, at half of their range."""
    arrays = batch | {"image": batch["image"].astype(jnp.float32) / 255}
    if "mask" in batch:
        arrays["mask"] = (batch["mask"] >= 128).astype(jnp.float32)
    return arrays
