"""The documentation: its site builds strictly, and its commands have these options."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from sdfl_jax import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: Path) -> list[list[str]]:
    """The `sdfl` commands of a page's code blocks, words without their comments."""
    blocks = re.findall(r"^```\n(.*?)^```", page.read_text(), re.M | re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        line = re.sub(r"^python -m sdfl_jax\.main\b", "sdfl train", line.strip())
        if line.startswith("sdfl "):
            found.append(shlex.split(line, comments=True)[1:])
    return found


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """The options of every verb, as its help and those of its parts tell them."""
    code = (
        "import sys; from sdfl_jax import cli\n"
        "for verb in cli.VERBS:\n"
        "    parts = ('table runs matrix calibrate' * (verb == 'report')).split()\n"
        "    for part in ('', *parts):\n"
        "        print('==', verb)\n"
        "        try: cli.main([*verb.split(), *part.split(), '--help'])\n"
        "        except SystemExit: pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    told = {verb: set() for verb in cli.VERBS}
    for part in done.stdout.split("== ")[1:]:
        verb, text = part.split("\n", 1)
        told[verb] |= set(re.findall(r"--\w+", text))
    return told


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_has_a_verb_and_options_that_there_are(page, options):
    for words in commands(page):
        if words[0].startswith("--"):
            assert words[0] in ("--help", "--version")
            continue
        verb = " ".join(words[:2] if words[0] == "data" else words[:1])
        assert verb in cli.VERBS, words
        given = {re.match(r"--\w+", word)[0] for word in words if word[:2] == "--"}
        assert given <= options[verb], (words, given - options[verb])


def test_the_pages_hold_commands():
    assert sum(len(commands(page)) for page in PAGES) > 30


def test_the_site_builds_without_a_broken_link_or_reference(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    build = ["-m", "mkdocs", "build", "--strict", "--quiet", f"--site-dir={tmp_path}"]
    done = subprocess.run(
        [sys.executable, *build], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mask_probs" in (tmp_path / "reference/index.html").read_text()


def test_the_readme_is_an_overview():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200
