"""Trains a network: `python -m sdfl_jax.main --config=FILE --workdir=DIR`."""

import sys

from absl import app, flags
from ml_collections import config_flags

from sdfl_jax.errors import InputError, one_line

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "File with get_config(arg); FILE:ARG passes arguments, --config.KEY=VALUE "
    "overrides.",
    lock_config=True,
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of everything the run writes.")


@one_line
def main(argv=None):
    """Reads the flags, trains."""
    _parse(list(sys.argv if argv is None else ["main", *argv]))
    # Imported late: a misspelt flag is told within a second.
    from sdfl_jax.train import train

    train(_CONFIG.value, _WORKDIR.value)


def _parse(argv: list[str]):
    """Parses the flags, told in one line where they do not fit."""
    try:
        rest = flags.FLAGS(argv)
    except AttributeError as error:  # an unknown field, as ml_collections tells it
        unknown, *hint = str(error).strip("\"'").split("\\n")
        hint = hint or str(error).splitlines()[1:]
        raise InputError(
            f"Unknown config field {unknown.splitlines()[0].strip(chr(39))!r}. "
            + " ".join(hint)
        ) from None
    except (flags.Error, FileNotFoundError, TypeError) as error:
        raise InputError(str(error).splitlines()[0]) from None
    for name, value in (("config", _CONFIG.value), ("workdir", _WORKDIR.value)):
        if value is None:
            raise InputError(f"--{name} is missing; see --help.")
    if rest[1:]:
        raise InputError(f"Not understood: {' '.join(rest[1:])}; options begin with --")


if __name__ == "__main__":
    if any(flag in sys.argv for flag in ("--help", "--helpshort", "-h")):
        app.run(lambda _: None)
    main()
