"""The `sdfl` command: its verbs, their help, and what is not imported for it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sdfl_jax import __version__, cli

ROOT = Path(__file__).parent.parent

# What takes seconds to import: none of it is needed to read a command line.
HEAVY = "jax flax optax grain tensorflow_datasets matplotlib sklearn starlette".split()

_HELP = """
import contextlib, io, json, sys
from sdfl_jax import cli

told = {}
for verb in [[], *(verb.split() for verb in cli.VERBS)]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        cli.main([*verb, "--help"])
    heavy = sorted(set(sys.argv[1:]) & sys.modules.keys())
    told[" ".join(verb)] = out.getvalue(), heavy
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told() -> dict[str, tuple[str, list[str]]]:
    """The help of every verb, and what of `HEAVY` was imported up to it."""
    done = subprocess.run(
        [sys.executable, "-c", _HELP, *HEAVY],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("verb", ["", *cli.VERBS])
def test_help_begins_with_a_sentence_and_imports_nothing_heavy(told, verb):
    text, heavy = told[verb]
    usage, about = text.split("\n\n", 2)[:2]
    assert usage.startswith(f"usage: sdfl {verb}".strip())
    assert re.match(r"[A-Z][^.]+[.:] ?\S*", about), about
    assert about.split("\n\n")[0].rstrip().endswith((".", ":")), about
    assert not heavy


@pytest.mark.parametrize(
    ("verb", "told"),
    [
        ("evalaute", "No verb 'evalaute'; .*did you mean 'evaluate'"),
        ("data biuld", "No verb 'data biuld'; .*did you mean 'data build'"),
    ],
)
def test_an_unknown_verb_is_told_in_one_line(verb, told, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(verb.split())
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert re.search(told, error) and len(error.splitlines()) == 1


def test_the_version_is_that_of_the_package(capsys):
    cli.main(["--version"])
    assert capsys.readouterr().out == f"sdfl {__version__}\n"


def test_a_verb_is_the_command_of_its_module(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["data", "verify", str(tmp_path / "none")])
    assert stop.value.code == 2
    assert str(tmp_path / "none") in capsys.readouterr().err
