"""Imports published weights into a working directory, or exports a run's weights.

python -m sdfl_jax.weights --model=sdfl --weights=FILE --workdir=DIR
python -m sdfl_jax.weights --workdir=DIR --export=FILE.safetensors
python -m sdfl_jax.weights --workdir=DIR --merge_lora=OTHER
python -m sdfl_jax.weights --check=FILE

`sdfl_jax.evaluate` and `sdfl_jax.predict` then use DIR like that of a training run, and
`sdfl_jax.main --config.init_from=DIR` starts from it in another --workdir. An export
holds the best weights of a working directory, under the reference's names. OTHER gets
them with LoRA adapters merged into the kernels: the same results at no extra cost.
--check tells which network a file belongs to.
"""

import argparse
import ast

from sdfl_jax.errors import InputError, one_line


@one_line
def main(argv=None):
    """Reads the command line; says what was written."""
    args = _arguments().parse_args(argv)
    if args.check:
        from sdfl_jax.weights.workdir import checked

        print(checked(args.check))
        return
    if not (args.weights or args.export or args.merge_lora):
        raise InputError(
            "Give --weights=FILE to read, --export=FILE or --merge_lora=DIR to write, "
            "or --check=FILE."
        )
    if not args.workdir:
        raise InputError("--workdir is missing: to write, or to export from.")
    # Imported late: help and mistakes are told within a second.
    from sdfl_jax import models, weights
    from sdfl_jax.weights.workdir import export, merge_workdir, write_workdir

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
        prog="sdfl weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", help="name of the network, such as sdfl; a wrong name lists all")
    add("--weights", help=".pth, .safetensors or .npz, by PyTorch's names")
    add("--workdir", help="working directory to write, or to export from")
    add(
        "--keep",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave at its initial values (label_head/*); may be repeated",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of the network (encoder=resnet18); may be repeated",
    )
    add("--image_size", type=int, default=0, help="default: the network's own")
    add("--merge_lora", metavar="DIR", help="working directory to write")
    add("--check", metavar="FILE", help="tell which network these weights belong to")
    add("--export", metavar="FILE", help=".safetensors file to write")
    return parser


if __name__ == "__main__":
    main()
