"""What is installed, outside of any checkout."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from sdfl_jax import __version__

ROOT = Path(__file__).parent.parent
PARTS = "sdfl_jax pyproject.toml README.md LICENSE NOTICE requirements.txt".split()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy, so that nothing lies around in the checkout."""
    pytest.importorskip("setuptools", "77")
    checkout = tmp_path_factory.mktemp("checkout")
    for name in PARTS:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, checkout / name)
    code = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (built,) = (checkout / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def run(wheel, tmp_path_factory):
    """Runs Python in an empty folder with nothing but the installed package."""
    site = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(wheel)], check=True)
    empty = tmp_path_factory.mktemp("empty")
    # Unoptimized programs: what is asked is whether the files are there.
    env = os.environ | {"PYTHONPATH": str(site), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}

    def run(*arguments):
        if arguments[0] == "sdfl":
            arguments = (str(site / "bin" / "sdfl"), *arguments[1:])
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=empty,
            env=env,
            capture_output=True,
            text=True,
        )

    return run


def test_the_wheel_holds_every_file_of_the_package(wheel):
    kinds = "py html js json md safetensors typed".split()
    files = [path for kind in kinds for path in (ROOT / "sdfl_jax").rglob(f"*.{kind}")]
    files += (ROOT / "configs").glob("*.py")
    names = {
        str(path.relative_to(ROOT)).replace("configs/", "sdfl_jax/configs/")
        if path.is_relative_to(ROOT / "configs")
        else str(path.relative_to(ROOT))
        for path in files
    }
    held = zipfile.ZipFile(wheel).namelist()
    assert names <= set(held)
    licences = {Path(name).name for name in held if "/licenses/" in name}
    assert licences == {"LICENSE", "NOTICE"}


def test_a_config_that_ships_is_found_by_its_name(run):
    config = "--config=network:name=simplenet,batch_size=1"
    done = run("sdfl", "train", config, "--dry_run")
    assert done.returncode == 0, done.stderr
    assert "parameters" in done.stdout


def test_the_command_is_installed(run):
    assert run("sdfl", "--version").stdout == f"sdfl {__version__}\n"
    assert "usage: sdfl predict" in run("sdfl", "predict", "--help").stdout


def test_configs_that_build_on_another_find_it(run):
    code = "from sdfl_jax.configs import study_9_sdfl_both as c; c.get_config()"
    done = run("-c", code)
    assert done.returncode == 0, done.stderr


def test_a_misspelt_name_of_a_config_is_told_in_one_line(run):
    done = run("-m", "sdfl_jax.main", "--config=sdfll", "--dry_run")
    assert done.returncode == 2
    assert "--config=sdfll: neither a file nor a config that ships" in done.stderr
    assert "did you mean 'sdfl'?" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("file", "extra"),
    [("requirements-dev.txt", "dev"), ("requirements-gpu.txt", "cuda12")],
)
def test_requirements_and_extras_are_the_same(file, extra):
    lines = (ROOT / file).read_text().splitlines()
    asked = {line for line in lines if re.match(r"\w", line)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["optional-dependencies"][extra]) == asked


def test_importing_the_package_imports_no_jax(run):
    done = run(
        "-c", "import sdfl_jax as s, sys; s.__all__; print('jax' in sys.modules)"
    )
    assert done.stdout == "False\n", done.stderr


def test_the_public_names_are_there(run):
    names = "load Predictor metrics.report models.build weights.from_torch".split()
    code = "import sdfl_jax; print(" + ", ".join(f"sdfl_jax.{n}" for n in names) + ")"
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
