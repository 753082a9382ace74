"""Networks out of JAX: the files give its numbers, or there is no file."""

import json
import subprocess
import sys

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import simplejpeg

from sdfl_jax import models
from sdfl_jax.errors import InputError
from sdfl_jax.export import __main__ as command
from sdfl_jax.export import onnx, stablehlo, subject
from sdfl_jax.models import layers
from sdfl_jax.models.outputs import of_mask
from sdfl_jax.predict import __main__ as predict_command
from sdfl_jax.predict.exported import Exported
from sdfl_jax.predict.predictor import Predictor
from tests import page, tiny

pytest.importorskip("onnxruntime", reason="no onnxruntime: requirements-dev.txt")
needs_jax2onnx = pytest.mark.skipif(
    not onnx.installed(), reason=f"no jax2onnx: {onnx.INSTALL}"
)

SIDE = 64
STARTER = {
    "name": "starter",
    "encoder": "tiny",
    "width": 8,
    "noise_width": 8,
    "freeze_encoder_bn": False,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return tiny.write_run(folder, model=STARTER, data__geometry="crop")


@pytest.fixture(scope="module")
def written(run, tmp_path_factory):
    """The run's network as ONNX, 64x64."""
    out = tmp_path_factory.mktemp("onnx") / "net.onnx"
    command.main(
        [f"--workdir={run}", "--format=onnx", f"--out={out}", f"--image_size={SIDE}"]
    )
    return out


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of two: one of the file's size, one that takes tiles."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, size in {"one": (SIDE, SIDE), "wide": (SIDE, 150)}.items():
        coarse = rng.integers(0, 256, (6, 8, 3), np.uint8)
        image = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{name}.png"), image)
    return folder


# ------------------------------------------------------------------------------ ONNX


@needs_jax2onnx
def test_the_file_describes_itself(written):
    about = Exported([written]).about
    assert about["network"] == "starter" and about["image_size"] == [SIDE, SIDE]
    assert about["normalisation"]["mean"] == [0.5, 0.5, 0.5]
    assert set(about["outputs"]) == {"mask_probs", "score"}
    assert 0 < about["pixel_threshold"] < 1 and about["calibration"] is None


@needs_jax2onnx
def test_predict_gives_the_same_masks_from_the_file(run, written, photos):
    ours, theirs = Predictor(str(run)), Exported([written])
    assert theirs.sha256 == ours.sha256
    # The same tiles as the file's.
    ours.settings |= {"shapes": [(SIDE, SIDE)], "overlap": 64}
    for name in ("one", "wide"):
        path = photos / f"{name}.png"
        expected, found = ours.predict(path), theirs.predict(path)
        np.testing.assert_allclose(found.mask_probs, expected.mask_probs, atol=1e-4)
        assert abs(found.score - expected.score) < 1e-4
        assert found.verdict == expected.verdict


@needs_jax2onnx
def test_predicting_from_a_file_imports_no_jax(written, photos, tmp_path):
    code = (
        "import sys; from sdfl_jax import cli\n"
        "cli.main(sys.argv[1:])\n"
        "assert not {'jax', 'flax', 'grain'} & sys.modules.keys()"
    )
    out = tmp_path / "out"
    words = ["predict", f"--onnx={written}", f"--out={out}", str(photos)]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["image"] for line in lines] == ["one.png", "wide.png"]
    assert cv2.imread(str(out / "masks/wide.png")).shape == (SIDE, 150, 3)


@needs_jax2onnx
def test_the_page_answers_from_the_file(written, photos):
    """Of any size, as `predict` does."""
    with page.serving(Exported([written])) as address:
        for name in ("one", "wide"):
            path = photos / f"{name}.png"
            status, told = page.post(address, path.read_bytes())
            expected = Exported([written]).predict(path)
            assert status == 200 and told["verdict"] == expected.verdict
            assert told["score"] == pytest.approx(expected.score, abs=1e-3)


@needs_jax2onnx
def test_a_batch_and_another_size_are_more_files_of_one_network(run, written, tmp_path):
    wide = tmp_path / "wide.onnx"
    start = [f"--workdir={run}", "--format=onnx"]
    command.main([*start, f"--out={wide}", "--image_size=64,96"])
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    both = Exported([written, wide])
    assert both.predict(image).score == Exported([wide]).predict(image).score
    pair = tmp_path / "pair.onnx"
    command.main([*start, f"--out={pair}", f"--image_size={SIDE}", "--batch=2"])
    answers = list(Exported([pair]).predict_many([image[:SIDE, :SIDE]] * 3))
    assert len({answer.score for answer in answers}) == 1
    with pytest.raises(InputError, match="its batch is not that of"):
        Exported([written, pair])


class Strange(nn.Module):
    """A network with a layer that is called `odd` and what it does there."""

    odd: object

    @nn.compact
    def __call__(self, image, *, train: bool):
        x = nn.Conv(1, (3, 3), name="first")(image)
        return of_mask(Odd(self.odd, name="odd")(x))


class Odd(nn.Module):
    do: object

    @nn.compact
    def __call__(self, x):
        return self.do(x)


def strange(odd, about: dict | None = None) -> subject.Subject:
    model = Strange(odd)
    shape = (1, SIDE, SIDE, 3)
    variables = models.init_variables(model, SIDE, jax.random.key(0))
    return subject.of_model(model, variables, shape, about or {"network": "strange"})


@needs_jax2onnx
def test_the_layers_of_every_network_are_converted(tmp_path):
    """ReLU before padding, pooling, resizing and concatenation."""

    def layered(x):
        y = layers.max_pool(layers.relu(x - 0.5), 3, 2, 1)
        y = layers.resize(layers.relu(y), *x.shape[1:3])
        y = jnp.concatenate([layers.relu(x), y], axis=-1)
        return jnp.sum(y, axis=-1, keepdims=True)

    onnx.write(tmp_path / "net.onnx", strange(layered))


@needs_jax2onnx
def test_what_cannot_be_converted_is_named_with_its_layer(tmp_path):
    out = tmp_path / "net.onnx"
    spectrum = lambda x: jnp.abs(jnp.fft.fft2(x, axes=(1, 2)))
    # Where jax2onnx lags behind JAX, the `jit` around it is what it does not know.
    told = "strange: (fft|jit) in .*odd.* cannot be converted"
    with pytest.raises(InputError, match=told):
        onnx.write(out, strange(spectrum))
    assert not any(tmp_path.iterdir())


@needs_jax2onnx
def test_coefficients_of_jpeg_files_go_into_the_file_too(photos, tmp_path, monkeypatch):
    run = tiny.write_run_of_coefficients(tmp_path / "run", monkeypatch)
    words = [f"--workdir={run}", f"--image_size={SIDE}"]
    command.main([*words, "--format=onnx", f"--out={tmp_path / 'net.onnx'}"])
    command.main([*words, "--format=stablehlo", f"--out={tmp_path / 'net.hlo'}"])
    # Of the file itself, not of its pixels saved once more.
    data = simplejpeg.encode_jpeg(cv2.imread(str(photos / "wide.png")), quality=60)
    (tmp_path / "photo.jpg").write_bytes(data)
    ours, theirs = Predictor(str(run)), Exported([tmp_path / "net.onnx"])
    ours.settings |= {"shapes": [(SIDE, SIDE)], "overlap": 64}
    for path in (tmp_path / "photo.jpg", photos / "wide.png"):
        expected, found = ours.predict(path), theirs.predict(path)
        assert np.ptp(expected.mask_probs) > 1e-3
        np.testing.assert_allclose(found.mask_probs, expected.mask_probs, atol=1e-4)
    page = [*words, "--format=web", f"--out={tmp_path / 'page'}"]
    with pytest.raises(SystemExit):
        command.main(page)
    assert not (tmp_path / "page").exists()


@needs_jax2onnx
def test_a_file_with_other_numbers_is_not_written(tmp_path):
    # Exported as VALID without a word.
    def pool(x):
        x = nn.max_pool(x, window_shape=(3, 3), padding=((1, 1), (1, 1)))
        return jax.image.resize(x, (1, SIDE, SIDE, 1), "nearest")

    with pytest.raises(InputError, match="output '(mask_probs|score)' differs from"):
        onnx.write(tmp_path / "net.onnx", strange(pool))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("factor", [0.999, np.nan])
def test_the_worst_output_is_named(factor):
    whole = strange(lambda x: x)
    exact = {name: outputs for name, _, outputs in whole.examples}
    names = {id(arrays): name for name, arrays, _ in whole.examples}

    def wrong(given):
        found = exact[names[id(given)]]
        if names[id(given)] == "the photograph coffee":
            found = found | {"mask_probs": found["mask_probs"] * np.float32(factor)}
        return found

    with pytest.raises(InputError, match="'mask_probs'.*on the photograph coffee"):
        whole.difference(wrong)
    assert whole.difference(lambda given: exact[names[id(given)]]) == 0


# ------------------------------------------------------------------------- StableHLO

_ALONE = """
import json, sys
import jax, numpy as np
exported = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
image = np.load(sys.argv[2])
outputs = jax.jit(exported.call)(image)
np.savez(sys.argv[3], **outputs)
assert not any(name.startswith(("sdfl_jax", "flax")) for name in sys.modules)
"""


def test_stablehlo_runs_where_this_package_is_not(run, tmp_path):
    out = tmp_path / "net.stablehlo"
    command.main(
        [
            f"--workdir={run}",
            "--format=stablehlo",
            f"--out={out}",
            f"--image_size={SIDE}",
        ]
    )
    about = json.loads(stablehlo.description_path(out).read_text())
    assert about["platforms"] == ["cpu", "cuda"] and about["jax"] == jax.__version__
    assert about["calling_convention_version"] >= 9
    image = np.random.default_rng(1).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)
    if about["batch"] != "any":
        image = image[: about["batch"]]
    np.save(tmp_path / "image.npy", image)
    names = [str(tmp_path / name) for name in ("net.stablehlo", "image.npy", "o.npz")]
    done = subprocess.run(
        [sys.executable, "-c", _ALONE, *names],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "o.npz")
    ours = Predictor(str(run))
    for i, one in enumerate(image):
        answer = ours.predict(one)
        np.testing.assert_allclose(found["mask_probs"][i], answer.mask_probs, atol=1e-4)
        assert abs(found["score"][i] - answer.score) < 1e-4


# ------------------------------------------------------------------------- the command


def test_what_is_there_stays_without_force(tmp_path, capsys):
    out = tmp_path / "net.onnx"
    out.write_text("mine")
    assert_told(capsys, [f"--out={out}", "--format=onnx"], "--force replaces it")
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--image_size=100,130"], "multiples of 32 are needed; the nearest is 96,128"),
        (["--image_size=big"], "--image_size=big: H,W in pixels is expected"),
        (["--image_size=0,32"], "--image_size=0,32: H,W in pixels is expected"),
        (["--batch=0"], "--batch=0: 1 or more"),
        (["--network=startr"], "a network of the package's: ['starter']"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(words, told, tmp_path, capsys):
    assert_told(capsys, ["--format=onnx", f"--out={tmp_path / 'x'}", *words], told)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--onnx=nowhere.onnx"], "--onnx=nowhere.onnx: no such file"),
        (["--onnx=nowhere.onnx", "--network=starter"], "no --workdir or --checkpoint"),
        (["--onnx={photo}"], "cannot be run"),
    ],
    ids=["missing", "both", "damaged"],
)
def test_predict_tells_bad_files_in_one_line(words, told, photos, tmp_path, capsys):
    photo = photos / "one.png"
    words = [word.format(photo=photo) for word in words]
    with pytest.raises(SystemExit) as error:
        predict_command.main([*words, f"--out={tmp_path / 'out'}", str(photo)])
    assert error.value.code == 2
    said = capsys.readouterr().err
    assert told in said and len(said.splitlines()) == 1


def assert_told(capsys, words, told):
    with pytest.raises(SystemExit) as error:
        command.main(words)
    assert error.value.code == 2
    said = capsys.readouterr().err
    assert told in said and len(said.splitlines()) == 1, said
