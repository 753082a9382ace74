"""Mistakes a user can mend, told in one line instead of a traceback."""

import difflib
import errno
import functools
import os
import re
import sys
from collections.abc import Callable, Iterable

# What the machine, rather than the program, refuses: worth a line, not a traceback.
_MACHINE = {
    errno.ENOSPC: "the disk is full",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOENT: "no such file or folder",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EDQUOT: "the disk quota is used up",
}


class InputError(ValueError):
    """Says in one line what was given, what is wrong with it and what would fit."""


def valid(name: str, names: Iterable[str]) -> str:
    """`there are [...]`, and which of `names` the given one was probably meant to be.

    To end a message with: it brings its full stop.
    """
    names = sorted(names)
    match = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    return f"there are {names}" + (f"; did you mean {match[0]!r}?" if match else ".")


def fits(value, default) -> bool:
    """Whether a field with this default takes the value."""
    if default is None:  # a number, or a default that follows from another field
        return value is None or fits(value, 0.0)
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    if isinstance(default, tuple):
        return isinstance(value, tuple | list)
    return isinstance(value, type(default))


def article(default) -> str:
    """What a field with this default takes, in words."""
    words = {bool: "True or False", int: "a whole number", float: "a number"}
    words[type(None)] = "a number or None"
    return words.get(type(default)) or {str: "text", tuple: "a list"}[type(default)]


def one_line(main: Callable) -> Callable:
    """Wraps a command's `main`: an `InputError` becomes one line and exit status 2.

    A full disk or a folder without permission counts as well; anything else keeps its
    traceback, because it is ours to mend. The home folder may be a `~` in `--out=~/x`,
    where a shell leaves it.
    """

    @functools.wraps(main)
    def wrapped(*args, **kwargs):
        if not args and not kwargs:
            sys.argv[1:] = map(_at_home, sys.argv[1:])
        elif args and isinstance(args[0], list):
            args = ([_at_home(word) for word in args[0]], *args[1:])
        try:
            return main(*args, **kwargs)
        except InputError as error:
            message = str(error)
        except OSError as error:
            if error.errno not in _MACHINE:
                raise
            message = f"{error.filename or 'output'}: {_MACHINE[error.errno]}."
        except KeyboardInterrupt:
            print("Interrupted.", file=sys.stderr)
            sys.exit(130)
        print(f"Error: {message}", file=sys.stderr)
        sys.exit(2)

    return wrapped


def _at_home(word: str) -> str:
    """`--out=~/x` and `--sets=a=~/x,b=~/y` with the home folder's path."""
    if not str(word).startswith("--"):
        return word
    return re.sub(r"(?<=[=,])~(?=/|$)", lambda _: os.path.expanduser("~"), word)
