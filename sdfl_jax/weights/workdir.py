"""Other people's weights as a working directory, and those of one as a file."""

from pathlib import Path

import jax
import numpy as np
import optax

from sdfl_jax import weights
from sdfl_jax.checkpoints import checkpoint, saving
from sdfl_jax.config import check, of_network
from sdfl_jax.errors import InputError
from sdfl_jax.files import new_folder
from sdfl_jax.state import init_state
from sdfl_jax.weights.identify import identify


def checked(path: str) -> str:
    """One line: which network or encoder the file at `path` belongs to."""
    first, *others = identify(weights.read_weights(path))
    said = (
        f"{first.matched} of the {first.places} arrays of {first.kind} {first.name!r}"
    )
    if first.share == 1:
        also = [c.name for c in others if c.share == 1]
        return f"{path}: {said}" + (f"; also {', '.join(also)}." if also else ", all.")
    if first.share < 0.5:
        return f"{path}: no network here; the nearest has {said}."
    return f"{path}: {said}, and {first.unknown} that it has no place for."


def merge_workdir(workdir: str, merged: str):
    """Writes `merged`: the best of `workdir` without adapters, with the same results.

    Raises InputError where the network has none.
    """
    trained = checkpoint.load(workdir)
    lora = getattr(trained.model, "lora", None)
    if lora is None:
        raise InputError(f"--workdir={workdir}: its network has no adapters.")
    config = trained.config
    settings = {k: v for k, v in config.model.to_dict().items() if k != "lora"}
    if settings["name"] == "vit_lora":
        settings["lora_rank"] = 0
    config.model = settings
    config.freeze = tuple(p for p in config.freeze if not p.startswith("!"))
    variables = weights.merge_lora(jax.device_get(trained.variables), lora.scale)
    with new_folder(merged, made_by=_MADE_BY) as folder:
        checkpoint.write_config(folder, config)
        checkpoints = saving.Checkpoints(folder, keep=1)
        state = init_state(variables, optax.identity())
        checkpoints.save_best(state, trained.progress)
        checkpoints.close()
        (folder / _MADE_BY).touch()


def write_workdir(
    workdir: str,
    model_name: str,
    state_dict: dict[str, np.ndarray],
    *,
    keep: list[str] = (),
    image_size: int = 0,
    **settings,
):
    """A working directory whose best checkpoint holds the arrays of `from_torch`.

    All or nothing. Its config is the reference's with this network at `image_size` (0:
    what it is made for). Raises InputError for a folder that holds something else, and
    for what `from_torch` does.
    """
    config = of_network(model_name, **settings)
    config.total_steps = 1  # one of the two must be set; nothing is trained here
    config.image_size = image_size or config.image_size
    config = check(config)
    variables = weights.from_torch(model_name, state_dict, keep=keep, **settings)
    with new_folder(workdir, made_by=_MADE_BY) as folder:
        checkpoint.write_config(folder, config)
        checkpoints = saving.Checkpoints(folder, keep=1)
        checkpoints.save_best(init_state(variables, optax.identity()), {})
        checkpoints.close()
        (folder / _MADE_BY).touch()


# Only a folder that this command made is replaced, never a training run's.
_MADE_BY = ".weights"


def export(workdir: str, path: str) -> int:
    """Writes the best weights of `workdir` as `weights.to_torch` names them.

    Returns the number of arrays. Raises InputError for a `path` of another kind.
    """
    if Path(path).suffix != ".safetensors":
        raise InputError(f"--export={path}: a file that ends in .safetensors.")
    trained = checkpoint.load(workdir)
    variables = jax.device_get(trained.variables)
    settings = trained.config.model.to_dict()
    arrays = weights.to_torch(settings.pop("name"), variables, **settings)
    weights.write_safetensors(path, arrays)
    return len(arrays)
