"""Weights of other people in, a working directory out; and back.

python -m sdfl_jax.weights --model=sdfl --weights=FILE --workdir=DIR
python -m sdfl_jax.weights --workdir=DIR --export=FILE.safetensors

DIR then serves `sdfl_jax.evaluate` and `sdfl_jax.predict` as that of a training run
does, and `sdfl_jax.main --config.init_from=DIR` goes on from it in another --workdir.
Exported are the best weights of a working directory, under the reference's names.
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


@one_line
def main(argv=None):
    """Reads the command line; says what was written."""
    args = _arguments().parse_args(argv)
    if not args.weights and not args.export:
        raise InputError("Give --weights=FILE to read or --export=FILE to write.")
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
        if unused := weights.unused(state_dict):
            print(f"Dropped, as no result depends on them: {', '.join(unused)}.")
    if args.export:
        count = export(args.workdir, args.export)
        print(f"{args.export}: {count} arrays.")


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
    arrays = weights.to_torch(trained.config.model["name"], variables)
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
    add("--workdir", required=True, help="to write, or to export from")
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
    add("--export", metavar="FILE", help="a .safetensors file to write")
    return parser


if __name__ == "__main__":
    main()
