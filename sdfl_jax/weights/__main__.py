"""Weights of other people in, a working directory out; and back.

python -m sdfl_jax.weights --model=sdfl --weights=FILE --workdir=DIR
python -m sdfl_jax.weights --workdir=DIR --export=FILE.safetensors
python -m sdfl_jax.weights --workdir=DIR --merge_lora=OTHER
python -m sdfl_jax.weights --check=FILE

DIR then serves `sdfl_jax.evaluate` and `sdfl_jax.predict` as that of a training run
does, and `sdfl_jax.main --config.init_from=DIR` goes on from it in another --workdir.
Exported are the best weights of a working directory, under the reference's names.
OTHER holds them with the adapters worked into the kernels: the same results, without
their cost. A check says which network a file belongs to.
"""

import argparse
import ast
from pathlib import Path

import jax
import numpy as np
import optax

from sdfl_jax import models, weights
from sdfl_jax.checkpoints import checkpoint
from sdfl_jax.config import check, of_network
from sdfl_jax.errors import InputError, one_line
from sdfl_jax.files import new_folder
from sdfl_jax.state import init_state
from sdfl_jax.weights.identify import identify


@one_line
def main(argv=None):
    """Reads the command line; says what was written."""
    args = _arguments().parse_args(argv)
    if args.check:
        print(checked(args.check))
        return
    if not (args.weights or args.export or args.merge_lora):
        raise InputError(
            "Give --weights=FILE to read, --export=FILE or --merge_lora=DIR to write, "
            "or --check=FILE."
        )
    if not args.workdir:
        raise InputError("--workdir is missing: to write, or to export from.")
    if args.weights:
        if not args.model:
            raise InputError(f"--model is missing; there are {sorted(models.MODELS)}.")
        state_dict = weights.read_weights(args.weights)
        write_workdir(
            args.workdir,
            args.model,
            state_dict,
            keep=args.keep,
            image_size=args.image_size,
            **_settings(args.set),
        )
        print(f"{args.workdir}: {args.model} with the weights of {args.weights}.")
        network = models.build(args.model, **_settings(args.set))
        if unused := weights.unused(state_dict, network):
            print(f"Dropped, as no result depends on them: {', '.join(unused)}.")
    if args.export:
        count = export(args.workdir, args.export)
        print(f"{args.export}: {count} arrays.")
    if args.merge_lora:
        merge_workdir(args.workdir, args.merge_lora)
        print(f"{args.merge_lora}: the network of {args.workdir}, adapters merged.")


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
        checkpoints = checkpoint.Checkpoints(folder, keep=1)
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
        checkpoints = checkpoint.Checkpoints(folder, keep=1)
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


def _settings(pairs: list[str]) -> dict:
    """`KEY=VALUE`s; a value that is no Python literal is text."""
    settings = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"--set={pair}: takes KEY=VALUE, as encoder=resnet18.")
        try:
            settings[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            settings[key] = text
    return settings


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sdfl_jax.weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", help=f"one of {', '.join(models.MODELS)}")
    add("--weights", help=".pth, .safetensors or .npz, by PyTorch's names")
    add("--workdir", help="to write, or to export from")
    add(
        "--keep",
        action="append",
        default=[],
        metavar="PATTERN",
        help="what is drawn afresh, as label_head/*; may be given again",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of the network, as encoder=resnet18; may be given again",
    )
    add("--image_size", type=int, default=0, help="default: the network's own")
    add("--merge_lora", metavar="DIR", help="a working directory to write")
    add("--check", metavar="FILE", help="says which network its weights belong to")
    add("--export", metavar="FILE", help="a .safetensors file to write")
    return parser


if __name__ == "__main__":
    main()
