"""The `sdfl` command: verbs, each of which is the command of a module.

`sdfl evaluate` is `python -m sdfl_jax.evaluate`. Nothing is imported but the module of
the verb that was given, and that reads its arguments before it imports JAX.
"""

import importlib
import sys
from collections.abc import Sequence

from sdfl_jax import __version__
from sdfl_jax.errors import InputError, one_line, valid

# Verb -> the function that takes its arguments, and what it does.
VERBS = {
    "train": ("sdfl_jax.main:command", "train a network (--dry_run: what that takes)"),
    "evaluate": ("sdfl_jax.evaluate.__main__:main", "score a network or saved masks"),
    "predict": ("sdfl_jax.predict.__main__:main", "mark manipulated pixels in files"),
    "serve": ("sdfl_jax.predict.__main__:serve", "open a page to drop photographs on"),
    "examine": ("sdfl_jax.examine.__main__:main", "make a case file of photographs"),
    "explain": ("sdfl_jax.explain.__main__:main", "show why a network answers so"),
    "export": ("sdfl_jax.export.__main__:main", "write a network for other programs"),
    "report": ("sdfl_jax.report.__main__:main", "sum up several evaluations"),
    "weights": ("sdfl_jax.weights.__main__:main", "read and write files of weights"),
    "data build": ("sdfl_jax.data.build.__main__:main", "make shards of a list"),
    "data verify": ("sdfl_jax.data.build.__main__:check", "read shards once more"),
    "data forge": ("sdfl_jax.data.forge.__main__:main", "make forgeries with masks"),
    "data audit": ("sdfl_jax.data.audit.__main__:main", "find leaks between lists"),
    "data explore": ("sdfl_jax.data.explore.__main__:main", "draw a data set's charts"),
    "data layouts": ("sdfl_jax.data.layouts.__main__:main", "make lists of a data set"),
    "data tfds": (
        "sdfl_jax.data.tfds_builder.__main__:main",
        "make a TFDS data set",
    ),
}


@one_line
def main(argv: Sequence[str] | None = None) -> int | None:
    """Runs a verb with what follows it, and returns its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    verb = " ".join(argv[:2] if argv[:1] == ["data"] else argv[:1])
    if verb == "--version":
        print(f"sdfl {__version__}")
    elif verb in VERBS:
        where, function = VERBS[verb][0].split(":")
        run = getattr(importlib.import_module(where), function)
        return run(argv[len(verb.split()) :])
    elif verb in ("", "-h", "--help", "data", "data -h", "data --help"):
        print(_help(verb.partition(" ")[0] if verb.startswith("data") else ""))
    else:
        raise InputError(f"No verb {verb!r}; {valid(verb, VERBS)}")


def _help(group: str) -> str:
    lines = [
        f"  {verb:13} {what}"
        for verb, (_, what) in VERBS.items()
        if verb.startswith(group)
    ]
    return "\n".join(
        [
            f"usage: sdfl {group or 'VERB'} ... | sdfl VERB --help | sdfl --version",
            "",
            "Finds manipulated pixels in images: trains, evaluates and uses networks.",
            "",
            *lines,
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
