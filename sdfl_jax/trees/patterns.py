"""Arrays of a network by patterns over their paths.

A path joins the names on the way to an array by slashes, as `parameters.txt` shows it:
`encoder/layer1_0/conv1/kernel`. In a pattern `*` stands for any text, slashes included,
and the rest for itself: `encoder/*` is all of the encoder, `*/bias` every bias. One
that begins with `!` takes out again: `encoder/*` with `!*/lora_?` leaves the adapters.
"""

import fnmatch
from collections.abc import Callable, Iterable, Sequence

import jax
from jaxtyping import PyTree

from sdfl_jax.errors import InputError


def fits(path: str, patterns: Iterable[str]) -> bool:
    """Whether any of the patterns stands for this path, and none takes it out."""
    patterns = list(patterns)
    taken_out = any(
        fnmatch.fnmatchcase(path, p[1:]) for p in patterns if p.startswith("!")
    )
    return not taken_out and any(fnmatch.fnmatchcase(path, p) for p in patterns)


def must_fit(what: str, patterns: Sequence[str], paths: Iterable[str]):
    """Raises InputError for the first pattern that stands for none of the paths."""
    paths = list(paths)
    for pattern in patterns:
        if not any(fits(path, [pattern.removeprefix("!")]) for path in paths):
            parts = sorted({path.partition("/")[0] for path in paths})
            raise InputError(
                f"{what}: nothing in this network is called {pattern!r}; its parts are "
                f"{parts} (PART/* is all of one)."
            )


def paths_of(tree: PyTree) -> list[str]:
    """The path of every leaf, in the order of `jax.tree.leaves`."""
    return jax.tree.leaves(map_paths(lambda path, leaf: path, tree))


def map_paths(function: Callable, tree: PyTree, *others: PyTree) -> PyTree:
    """`jax.tree.map` whose function takes the leaf's path first."""
    return jax.tree.map_with_path(
        lambda path, *leaves: function(
            "/".join(str(getattr(key, "key", key)) for key in path), *leaves
        ),
        tree,
        *others,
    )
