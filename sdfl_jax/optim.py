"""Optimizers as torch defines them, and the course of their rate.

The applied rate is a base rate times a shape: the shape follows from the step (warm-up,
cosine, steps), the base rate can be set between steps, which is how `Plateau`, fed once
per validation, lowers it.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from sdfl_jax.errors import InputError, valid
from sdfl_jax.trees import patterns

# What has to be given; the defaults stand in `sdfl_jax.config`.
_OF_OPTIMIZER = (
    "name",
    "lr",
    "weight_decay",  # decoupled in adamw, added to the gradient elsewhere
    "b1",  # adam, adamw
    "b2",
    "eps",  # all but sgd
    "decay",  # rmsprop
    "momentum",  # sgd
    "clip",  # largest global norm of the gradient, 0: any
)
_OF_SCHEDULE = (
    "name",
    "warmup_steps",
    "factor",  # plateau and step: what the rate is multiplied by
    "patience",  # plateau: bad validations that are borne
    "early_stop",  # plateau: stop after more validations without a better one
    "every_steps",  # step
    "decay_steps",  # wsd: the last steps, over which the rate falls to 0
)


def _adam(s, rate):
    return optax.chain(
        optax.add_decayed_weights(s["weight_decay"]),
        optax.adam(rate, s["b1"], s["b2"], s["eps"]),
    )


def _adamw(s, rate):
    decay = s["weight_decay"]
    return optax.adamw(rate, s["b1"], s["b2"], s["eps"], weight_decay=decay)


def _rmsprop(s, rate):
    return optax.chain(
        optax.add_decayed_weights(s["weight_decay"]),
        # torch adds eps outside the root; optax's defaults are 0.9 and inside.
        optax.rmsprop(rate, decay=s["decay"], eps=s["eps"], eps_in_sqrt=False),
    )


def _sgd(s, rate):
    return optax.chain(
        optax.add_decayed_weights(s["weight_decay"]),
        optax.sgd(rate, momentum=s["momentum"] or None),
    )


def _cosine(s, total_steps, step):
    share = (step - s["warmup_steps"]) / max(total_steps - s["warmup_steps"], 1)
    return 0.5 * (1 + jnp.cos(math.pi * jnp.clip(share, 0.0, 1.0)))


def _wsd(s, total_steps, step):
    """Constant to the last `decay_steps`, over which it falls in a straight line.

    A run that is given more steps goes on from a checkpoint before the fall.
    """
    return jnp.clip((total_steps - step) / max(s["decay_steps"], 1), 0.0, 1.0)


def _poly(s, total_steps, step):
    """HRNet's, and so CAT-Net's and TruFor's: a power of what is left."""
    return jnp.clip(1 - step / max(total_steps, 1), 0.0, 1.0) ** 0.9


OPTIMIZERS = {"adam": _adam, "adamw": _adamw, "rmsprop": _rmsprop, "sgd": _sgd}
SCHEDULES = {
    "plateau": lambda s, total_steps, step: 1.0,  # lowered by the loop, see `Plateau`
    "constant": lambda s, total_steps, step: 1.0,
    "cosine": _cosine,
    "poly": _poly,
    "wsd": _wsd,  # warm-up, stable, decay
    "step": lambda s, total_steps, step: s["factor"] ** (step // s["every_steps"]),
}


def make_optimizer(
    optimizer: Mapping,
    schedule: Mapping,
    total_steps: int,
    *,
    lr_multipliers: Mapping[str, float] | None = None,
    freeze: Sequence[str] = (),
) -> optax.GradientTransformation:
    """Gradient clipping, the named optimizer and the rate's shape over `total_steps`.

    Both mappings are complete, as the sections of `sdfl_jax.config.defaults()` are.
    Weight decay is decoupled in adamw and added to the gradient elsewhere, as in torch.
    Warm-up is linear and reaches the full rate at step `warmup_steps`.

    `lr_multipliers` scales the rate, and with it adamw's decay, of the params that a
    pattern stands for (see `patterns`); where several do, their factors multiply. What
    `freeze` stands for gets no update, no decay and no optimizer state, and does not
    count in the norm that `clip` bounds.

    Raises `InputError` for settings that are unknown, missing or out of their range,
    and its `init` for a pattern that stands for none of the params.
    """
    optimizer = _optimizer_settings(optimizer)
    schedule = _schedule_settings(schedule)
    multipliers = dict(lr_multipliers or {})
    for pattern in multipliers:
        _range("lr_multipliers", multipliers, (pattern,), above=0.0)
    shape = _shape(schedule, total_steps)

    def labels(params):
        paths = patterns.paths_of(params)
        patterns.must_fit("config.lr_multipliers", list(multipliers), paths)
        patterns.must_fit("config.freeze", freeze, paths)
        return patterns.map_paths(
            lambda path, _: "frozen" if patterns.fits(path, freeze) else "trained",
            params,
        )

    def chain(learning_rate, shape):
        parts = [OPTIMIZERS[optimizer["name"]](optimizer, learning_rate * shape)]
        if optimizer["clip"]:
            parts.insert(0, optax.clip_by_global_norm(optimizer["clip"]))
        if multipliers:
            parts.append(_multiply(multipliers))
        if not (multipliers or freeze):
            return optax.chain(*parts)
        kinds = {"trained": optax.chain(*parts), "frozen": optax.set_to_zero()}
        return optax.partition(kinds, labels)

    return optax.inject_hyperparams(chain)(learning_rate=optimizer["lr"], shape=shape)


def _multiply(multipliers: Mapping[str, float]) -> optax.GradientTransformation:
    """Scales each update by the factors of the patterns that stand for its path."""

    def scaled(path, update):
        fitting = [f for p, f in multipliers.items() if patterns.fits(path, [p])]
        return update * math.prod(fitting)

    return optax.stateless(lambda updates, params: patterns.map_paths(scaled, updates))


def learning_rate(opt_state) -> float:
    """The rate that the last step applied (before the first: that it will apply)."""
    return float(applied_rate(opt_state))


def applied_rate(opt_state) -> Float[Array, ""] | None:
    """`learning_rate` on the device; None of an optimizer that is not made here."""
    hyperparams = getattr(opt_state, "hyperparams", {})
    if not {"learning_rate", "shape"} <= hyperparams.keys():
        return None
    return hyperparams["learning_rate"] * hyperparams["shape"]


def set_learning_rate(opt_state, lr: float):
    """The same state with `lr` as its base rate, which the schedule's shape scales."""
    hyperparams = dict(opt_state.hyperparams)
    old = hyperparams["learning_rate"]
    # Type and placement stay, so that a compiled step need not be compiled again.
    hyperparams["learning_rate"] = jnp.full_like(old, lr)
    return opt_state._replace(hyperparams=hyperparams)


def make_plateau(lr: float, schedule: Mapping) -> "Plateau | None":
    """The `Plateau` that the settings of `make_optimizer` ask for, None for others."""
    schedule = _schedule_settings(schedule)
    if schedule["name"] != "plateau":
        return None
    names = ("factor", "patience", "early_stop")
    return Plateau(lr, **{name: schedule[name] for name in names})


class Plateau:
    """Lowers the rate when the validation loss stalls, and says when to stop.

    torch's ReduceLROnPlateau with its defaults (a better loss is lower by a share of
    1e-4; changes below 1e-8 are not made, so 1e-8 is where the reference's rate ends),
    and beside it the reference's early stop: its own best loss, by any margin, which
    starts anew whenever the rate has changed.
    """

    def __init__(self, lr: float, *, factor: float, patience: int, early_stop: int):
        self.lr = float(lr)
        self.factor, self.patience, self.early_stop = factor, patience, early_stop
        self.stop = False
        self.epochs_since_best = 0
        self._best = self._best_of_rate = math.inf
        self._bad_epochs = 0

    def update(self, val_loss: float) -> None:
        """Takes the loss of one validation; NaN counts as one that is not better."""
        val_loss = math.inf if math.isnan(val_loss) else float(val_loss)
        if val_loss < self._best_of_rate:
            self._best_of_rate, self.epochs_since_best = val_loss, 0
        else:
            self.epochs_since_best += 1
        self.stop = self.epochs_since_best > self.early_stop

        if val_loss < self._best * (1 - 1e-4):
            self._best, self._bad_epochs = val_loss, 0
        else:
            self._bad_epochs += 1
        if self._bad_epochs > self.patience:
            self._bad_epochs = 0
            lower = self.lr * self.factor
            if self.lr - lower > 1e-8:
                self.lr, self._best_of_rate = lower, math.inf

    def state_dict(self) -> dict:
        """What `load_state_dict` needs to go on from here; fit for JSON."""
        return {
            "lr": self.lr,
            "stop": self.stop,
            "epochs_since_best": self.epochs_since_best,
            "best": _finite(self._best),
            "best_of_rate": _finite(self._best_of_rate),
            "bad_epochs": self._bad_epochs,
        }

    def load_state_dict(self, state: Mapping) -> None:
        """Takes the position of another `Plateau`; the settings stay as they are."""
        self.lr, self.stop = state["lr"], state["stop"]
        self.epochs_since_best = state["epochs_since_best"]
        self._best = _infinite(state["best"])
        self._best_of_rate = _infinite(state["best_of_rate"])
        self._bad_epochs = state["bad_epochs"]


def _shape(schedule: Mapping, total_steps: int) -> Callable:
    """step -> what the base rate is multiplied by, 1 at the height of it."""
    warmup_steps = schedule["warmup_steps"]

    def shape(step):
        # Counted from 1, so that no step is lost at rate 0.
        warmup = jnp.minimum(1.0, (step + 1) / max(warmup_steps, 1))
        return warmup * SCHEDULES[schedule["name"]](schedule, total_steps, step)

    return shape


def _optimizer_settings(given: Mapping) -> dict:
    settings = _complete("optimizer", given, _OF_OPTIMIZER, OPTIMIZERS)
    _range("optimizer", settings, ("lr", "eps"), above=0.0)
    _range("optimizer", settings, ("weight_decay", "clip", "momentum"), least=0.0)
    for name in ("b1", "b2", "decay", "momentum"):
        _range("optimizer", settings, (name,), least=0.0, below=1.0)
    return settings


def _schedule_settings(given: Mapping) -> dict:
    settings = _complete("schedule", given, _OF_SCHEDULE, SCHEDULES)
    counts = ("warmup_steps", "patience", "early_stop", "decay_steps")
    _range("schedule", settings, counts, least=0)
    _range("schedule", settings, ("every_steps",), least=1)
    _range("schedule", settings, ("factor",), above=0.0, below=1.0)
    return settings


def _complete(what: str, given: Mapping, keys: Sequence[str], names: Mapping) -> dict:
    """`given` as a dict; unknown and missing keys and an unknown name are refused."""
    for key in given:
        if key not in keys:
            raise InputError(f"No setting {what}.{key}; {valid(key, keys)}")
    missing = [key for key in keys if key not in given]
    if missing:
        raise InputError(f"{what} is given without {missing}.")
    if given["name"] not in names:
        raise InputError(f"No {what} {given['name']!r}; {valid(given['name'], names)}")
    return dict(given)


def _range(what, settings, names, above=None, least=None, below=None) -> None:
    """Refuses numbers outside their range."""
    for name in names:
        value = settings[name]
        fits = isinstance(value, int | float) and math.isfinite(value)
        fits = fits and (above is None or value > above)
        fits = fits and (least is None or value >= least)
        fits = fits and (below is None or value < below)
        if not fits:
            bounds = {"above": above, "at least": least, "below": below}
            wanted = [f"{word} {b}" for word, b in bounds.items() if b is not None]
            raise InputError(
                f"{what}.{name} is {value!r}; it must be a number"
                f" {' and '.join(wanted)}."
            )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no infinity


def _infinite(value: float | None) -> float:
    return math.inf if value is None else value
