"""Two trees of arrays compared by name and shape."""

from collections.abc import Sequence

from flax import traverse_util

from sdfl_jax.errors import InputError
from sdfl_jax.trees import patterns


def must_match(what: str, found: dict, wanted: dict):
    """Compares the names and shapes of two trees of arrays.

    Raises InputError where they differ: `what` does not fit the network, with a list.
    """
    found, wanted = (
        {
            path: tuple(leaf.shape)
            for path, leaf in traverse_util.flatten_dict(tree, sep="/").items()
        }
        for tree in (found, wanted)
    )
    refuse(what, found, wanted, unknown=sorted(found.keys() - wanted.keys()))


def refuse(what: str, found: dict, wanted: dict, unknown: list[str]):
    """Raises InputError unless `found` has the places and shapes of `wanted`."""
    both = sorted(found.keys() & wanted.keys())
    other = [
        f"{path}: given {found[path]}, network {wanted[path]}"
        for path in both
        if found[path] != wanted[path]
    ]
    problems = [
        *_listed("-", "missing", sorted(wanted.keys() - found.keys())),
        *_listed("+", "unknown", unknown),
        *_listed("~", "of another shape", other),
    ]
    if problems:
        raise InputError(f"{what} does not fit the network:\n" + "\n".join(problems))


def _listed(sign: str, title: str, names: list[str], limit: int = 20) -> list[str]:
    if not names:
        return []
    more = [f"    ... and {len(names) - limit} more"] if len(names) > limit else []
    lines = [f"  {sign} {name}" for name in names[:limit]]
    return [f"  {len(names)} {title}:", *lines, *more]


def merge(what: str, given: dict, fresh: dict, keep: Sequence[str] = ()) -> dict:
    """`given`, but what the patterns `keep` stand for as it is in `fresh`.

    Both are {"params", "batch_stats"}; patterns are over paths below these, see
    `sdfl_jax.trees.patterns`. Raises InputError where the rest differs in a name or a
    shape, or a pattern stands for nothing.
    """
    given, fresh = (
        traverse_util.flatten_dict(tree, sep="/") for tree in (given, fresh)
    )
    below = {path: path.partition("/")[2] for path in given | fresh}
    patterns.must_fit(f"{what}, keeping", keep, [below[path] for path in fresh])
    kept = {path for path in below if patterns.fits(below[path], keep)}
    given = {path: given[path] for path in given if path not in kept}
    wanted = {path: fresh[path] for path in fresh if path not in kept}
    must_match(what, given, wanted)
    return traverse_util.unflatten_dict(fresh | given, sep="/")
