"""Trains a network from a config, and resumes an interrupted run.

python -m sdfl_jax.main --config=configs/sdfl.py --workdir=runs/sdfl
python -m sdfl_jax.main --config=configs/sdfl.py --dry_run

`sdfl_jax/config.py` lists every field of a config, with its default and meaning.
"""

import re
import shlex
import sys
from collections.abc import Sequence

import ml_collections as mlc
from absl import flags
from ml_collections import config_flags

from sdfl_jax import config
from sdfl_jax.devices import memory
from sdfl_jax.errors import InputError, one_line

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "The name of a config that ships (such as sdfl), or a file with get_config(arg); "
    "NAME:ARG passes arguments, --config.KEY=VALUE overrides a field, and "
    "--config.model.SETTING=VALUE a setting of the network, named in the file or not.",
    # Fields that a file does not name: a network's settings have defaults of their own.
    # What no config and no network has, `config.check` and `models.build` refuse.
    lock_config=False,
    accept_new_attributes=True,
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder for everything that the run writes."
)
_ALLOW_CONFIG_CHANGE = flags.DEFINE_bool(
    "allow_config_change",
    False,
    "Resume although the config differs from the one that the run began with.",
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run",
    False,
    "Print what a training step costs (compute, memory, communication) and stop.",
)


@one_line
def main(argv=None):
    """Reads the flags, trains."""
    experiment = _parse(list(sys.argv if argv is None else ["main", *argv]))
    # Imported late: a misspelt flag is told within a second.
    from sdfl_jax.data.setup import setup
    from sdfl_jax.devices import processes
    from sdfl_jax.train import train
    from sdfl_jax.training.dry_run import dry_run
    from sdfl_jax.training.preemption import Preempted

    setup()
    memory.keep_steps()
    processes.join()
    if _DRY_RUN.value:
        dry_run(experiment)
        return
    try:
        train(
            experiment,
            _WORKDIR.value,
            allow_config_change=_ALLOW_CONFIG_CHANGE.value,
        )
    except Preempted as stop:
        given = sys.argv[1:] if argv is None else argv
        print(stop)
        print(f"To go on: {shlex.join(['python', '-m', 'sdfl_jax.main', *given])}")


def _parse(argv: list[str]) -> mlc.ConfigDict:
    """Parses the flags, told in one line where they do not fit; the checked config."""
    for old in config.FORMER_NAMES:
        if any(re.match(rf"--?config\.{old}\b", argument) for argument in argv):
            config.say_renamed(old)
    # The fields' overrides are looked for in `sys.argv`.
    argv, sys.argv = (list(map(_renamed, given)) for given in (argv, sys.argv))
    try:
        rest = flags.FLAGS(_with_config_found(argv))
    except (AttributeError, KeyError) as error:  # of a field below one that has none
        raise InputError(
            f"Unknown config field: {error.args[0]}. A section that a config lacks is "
            "given whole, as --config.model.lora=\"{'rank': 8}\"."
        ) from None
    except flags.Error as error:
        # A config's own mistake comes wrapped in its traceback; its last line says it.
        last = str(error).strip().splitlines()[-1]
        raise InputError(last.split("InputError: ")[-1]) from None
    for name, value in (("config", _CONFIG.value), ("workdir", _WORKDIR.value)):
        if value is None and not (name == "workdir" and _DRY_RUN.value):
            raise InputError(f"--{name} is missing; see --help.")
    if not isinstance(_CONFIG.value, mlc.ConfigDict):
        path = flags.FLAGS["config"].config_filename
        raise InputError(f"--config={path}: no such file, or an import in it fails.")
    if rest[1:]:
        raise InputError(f"Not understood: {' '.join(rest[1:])}; options begin with --")
    return config.check(_CONFIG.value)


def _renamed(argument: str) -> str:
    """A flag by the name of today, where it names a field by a former one."""
    for old, new in config.FORMER_NAMES.items():
        argument = re.sub(rf"^(--?config)\.{old}\b", rf"\1.{new}", argument)
    return argument


def _with_config_found(argv: list[str]) -> list[str]:
    """`argv` with the file of a config that is given by its bare name."""
    argv = list(argv)
    for i, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if name not in ("--config", "-config"):
            continue
        if equals:
            argv[i] = f"{name}={config.find(value)}"
        elif i + 1 < len(argv):
            argv[i + 1] = config.find(argv[i + 1])
    return argv


def command(argv: Sequence[str] | None = None):
    """`main`, or the help, in a process that has huge pages where that is possible."""
    given = list(sys.argv[1:] if argv is None else argv)
    if any(flag in given for flag in ("--help", "-help", "--helpshort", "-h")):
        print(_help())
        return
    memory.restart()
    main(given)


def _help() -> str:
    flag = lambda name: f"  --{name}\n      {flags.FLAGS[name].help}"
    own = (_CONFIG, _WORKDIR, _ALLOW_CONFIG_CHANGE, _DRY_RUN)
    usage = "usage: sdfl train --config=NAME[:ARG] --workdir=DIR [--config.KEY=VALUE]"
    return "\n".join([usage, "", __doc__, *(flag(holder.name) for holder in own)])


if __name__ == "__main__":
    command()
