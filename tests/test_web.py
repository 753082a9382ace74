"""The browser's folder: what is in it, and in a real browser what it answers."""

import base64
import collections
import hashlib
import io
import json
import math
import shutil
import tarfile

import cv2
import numpy as np
import pytest

from benchmarks.browser import opened, serving
from sdfl_jax.errors import InputError
from sdfl_jax.export import __main__ as command
from sdfl_jax.export import onnx, web
from sdfl_jax.predict.predictor import Predictor
from tests import tiny
from tests.test_exported import SIDE, STARTER, strange

pytest.importorskip("onnxruntime", reason="no onnxruntime: requirements-dev.txt")
pytestmark = pytest.mark.skipif(
    not onnx.installed(), reason=f"no jax2onnx: {onnx.INSTALL}"
)


def package(folder, version=web.VERSION) -> bytes:
    """A tarball that looks like npm's, as small as can be; also lies in `folder`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        contents = {f"dist/{name}": name.encode() for name in web._SCRIPTS}
        contents["package.json"] = json.dumps({"version": version}).encode()
        for name, data in contents.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return tiny.write_run(folder, model=STARTER, data__geometry="crop")


def exported(run, out, *words):
    size = f"--image_size={SIDE}"
    command.main([f"--workdir={run}", "--format=web", f"--out={out}", size, *words])
    return out


@pytest.fixture(scope="module")
def plain(run, tmp_path_factory):
    """A folder whose runtime is none."""
    folder = tmp_path_factory.mktemp("web")
    package(folder / "npm")
    return exported(run, folder / "out", f"--onnxruntime_web={folder / 'npm'}")


# ------------------------------------------------------------------------ the folder


def test_the_page_asks_no_other_host(plain):
    page = (plain / "index.html").read_text()
    assert "Content-Security-Policy" in page and "default-src" in page
    for path in (plain / "index.html", plain / "worker.js"):
        text = path.read_text()
        assert "http:" not in text and "https:" not in text and "{{" not in text


def test_the_runtimes_files_come_with_their_licence(plain):
    for name in web._SCRIPTS:
        assert (plain / "onnxruntime" / name).read_bytes() == name.encode()
    assert "MIT License" in (plain / "onnxruntime/LICENSE").read_text()


def test_weights_are_halved_where_no_mask_moves(plain):
    about = json.loads((plain / "model.json").read_text())
    assert about["float16"] and about["bytes"] == (plain / "model.onnx").stat().st_size
    model = pytest.importorskip("onnx").load(plain / "model.onnx")
    stored = collections.Counter()
    for weight in model.graph.initializer:
        stored[weight.data_type] += math.prod(weight.dims)
    half, whole = model.graph.initializer[0].FLOAT16, model.graph.initializer[0].FLOAT
    assert stored[half] > 20 * stored[whole]


def test_weights_stay_whole_where_a_mask_would_move(tmp_path, monkeypatch):
    package(tmp_path / "npm")
    monkeypatch.setattr(web, "HALF_MOVES", 0)
    about = {"network": "strange", "image_size": [SIDE, SIDE]}
    subject = strange(lambda x: 3 * x, about)
    told = web.write(tmp_path / "out", subject, onnxruntime_web=tmp_path / "npm")
    assert not told["float16"]


def test_an_older_folder_is_replaced_and_any_other_stays(plain, run, tmp_path, capsys):
    out, npm = tmp_path / "mine", f"--onnxruntime_web={plain.parent / 'npm'}"
    out.mkdir()
    (out / "letter.txt").write_text("Dear reader")
    for words, told in [([], "--force replaces it"), (["--force"], "something else")]:
        with pytest.raises(SystemExit):
            exported(run, out, npm, *words)
        assert told in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["letter.txt"]


# --------------------------------------------------------------- the package's way here


def test_the_package_is_fetched_once_and_known_by_its_hash(tmp_path, monkeypatch):
    data = package(tmp_path / "npm")
    served = tmp_path / "registry/onnxruntime-web/-"
    served.mkdir(parents=True)
    name = f"onnxruntime-web-{web.VERSION}.tgz"
    (served / name).write_bytes(data)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with serving(tmp_path / "registry") as address:
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", address)
        with pytest.raises(InputError, match="not what it should be"):
            web._scripts(None)
        assert not (tmp_path / "cache").exists()
        monkeypatch.setattr(web, "SHA512", hashlib.sha512(data).hexdigest())
        assert web._scripts(None).keys() == {*web._SCRIPTS, "LICENSE"}
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://127.0.0.1:9")
    assert web._scripts(None).keys() == {*web._SCRIPTS, "LICENSE"}  # from the cache
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(InputError, match=r"npm pack .*give --onnxruntime_web=FILE"):
        web._scripts(None)


def test_another_package_is_refused(tmp_path):
    other = tmp_path / "other.tgz"
    other.write_bytes(package(tmp_path / "old", "1.0.0"))
    with pytest.raises(InputError, match="another SHA-512"):
        web._scripts(other)
    with pytest.raises(InputError, match=f"version 1.0.0, and {web.VERSION}"):
        web._scripts(tmp_path / "old")
    with pytest.raises(InputError, match="no such file"):
        web._scripts(tmp_path / "nowhere.tgz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="not the npm package"):
        web._scripts(tmp_path / "empty")


# ----------------------------------------------------------------------- in a browser


CALIBRATION = {
    "band": [0.2, 0.3],
    "logistic": {"slope": 1.5, "intercept": 0.4},
    "images": {"authentic": 100, "manipulated": 100},
}


def decoded(url: str) -> np.ndarray:
    data = base64.b64decode(url.partition(",")[2])
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def test_a_photo_in_the_browser_gets_the_mask_of_predict(run, plain, tmp_path):
    if not web.cached().is_file():
        pytest.skip(f"no {web.cached()}: `sdfl export --format=web` fetches it")
    out = shutil.copytree(plain, tmp_path / "out")
    for name, content in web._scripts(None).items():
        (out / "onnxruntime" / name).write_bytes(content)
    about = json.loads((out / "model.json").read_text())
    about["calibration"] = CALIBRATION
    (out / "model.json").write_text(json.dumps(about))
    rng = np.random.default_rng(0)
    for name, size in {"one.png": (SIDE, SIDE), "wide.png": (SIDE - 7, 150)}.items():
        coarse = rng.integers(0, 256, (6, 8, 3), np.uint8)
        image = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(out / name), image)
    try:
        seen, elsewhere = opened(out, ["one.png", "wide.png"], tmp_path / "profile")
    except LookupError as none:
        pytest.skip(str(none))
    refused, letter, *photos = seen
    assert refused["elsewhere"] == "refused" and not elsewhere
    assert letter["error"] and letter["hidden"]
    assert letter["status"] == "letter.txt: not an image that this browser reads."
    ours = Predictor(str(run))
    ours.calibration = CALIBRATION
    ours.settings |= {"shapes": [(SIDE, SIDE)], "overlap": 64}  # the folder's tiles
    for photo in photos:
        assert not photo["error"], photo["status"]
        assert photo["status"].startswith("Done in")
        expected = ours.predict(out / photo["name"])
        mask = decoded(photo["mask"])[..., 0]
        assert np.abs(mask / 255 - expected.mask_probs).max() < 0.02
        assert photo["score"] == pytest.approx(expected.score, abs=0.01)
        assert photo["verdict"].lower() == expected.verdict
        ratio = float(photo["ratio"].split()[0])
        assert math.log10(ratio) == pytest.approx(expected.log10_ratio, abs=0.05)
        overlay = decoded(photo["overlay"]).astype(int)
        assert overlay.shape == expected.overlay.shape
        assert np.abs(overlay - expected.overlay[..., ::-1]).mean() < 12
    assert len({share for share in photos[1]["shares"] if share}) >= 2  # tile by tile
