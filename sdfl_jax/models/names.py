"""What to say of a name that there is not."""

import difflib
from collections.abc import Iterable


def valid(name: str, names: Iterable[str]) -> str:
    """All of `names`, and the one that `name` was probably meant to be."""
    names = sorted(names)
    match = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    return f"there are {names}" + (f"; did you mean {match[0]!r}?" if match else ".")
