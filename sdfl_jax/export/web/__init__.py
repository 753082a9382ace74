"""A folder that any static server serves: the page of `sdfl serve`, without a server.

The network runs in the reader's browser, so that no photograph leaves it.
"""

import hashlib
import html
import io
import json
import os
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np

from sdfl_jax import files
from sdfl_jax.errors import InputError
from sdfl_jax.export import onnx
from sdfl_jax.export.subject import Subject
from sdfl_jax.metrics.calibration import VERDICTS
from sdfl_jax.predict import serve

VERSION = "1.30.0"  # of the npm package onnxruntime-web
SHA512 = (
    "ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca"
    "590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61"
)
SIZE = "33 MB"  # of its tarball
_SCRIPTS = (  # what runs with WebAssembly alone, and what knows WebGPU as well
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
# The npm package names its licence (package.json) and does not hold its text.
_LICENCE = """MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""

HALF_MOVES = 1e-3  # at most: a mask's probability, where weights become float16
_MADE_BY = "model.json"
_LIMIT_MB = 50  # of a photograph, as `sdfl serve` has it
_HERE = Path(__file__).parent


def write(
    out: str | os.PathLike,
    subject: Subject,
    *,
    onnxruntime_web: str | os.PathLike | None = None,
) -> dict:
    """Writes the folder; an older one of this kind is replaced.

    `onnxruntime_web` is the npm package, as its tarball or unpacked; without it, it
    comes from the cache or is downloaded. The weights are float16 where that moves no
    probability by more than `HALF_MOVES`. Returns `difference`, the largest of the
    network from JAX (relative, see `Subject.difference`) before that, `bytes` of the
    folder and `float16`.

    Raises InputError, and writes nothing, where the network cannot be converted, gives
    other numbers or no mask, and where the package is not to be had.
    """
    if "mask_probs" not in subject.about["outputs"]:
        raise InputError(
            f"{subject.about['network']} gives a score and no mask, which the page is "
            "for."
        )
    if list(subject.inputs) != ["image"]:
        raise InputError(
            f"{subject.about['network']} reads the coefficients of JPEG files, which a "
            "browser does not give; --format=onnx and stablehlo take it."
        )
    with files.new_folder(out, made_by=_MADE_BY) as folder:
        (folder / "onnxruntime").mkdir()
        for name, content in _scripts(onnxruntime_web).items():
            (folder / "onnxruntime" / name).write_bytes(content)
        model = onnx.converted(subject)
        data = model.SerializeToString()
        difference = subject.difference(onnx.runner(data))
        halved = _halved(model).SerializeToString()
        half = _moves(subject, onnx.runner(halved)) <= HALF_MOVES
        data = halved if half else data
        (folder / "model.onnx").write_bytes(data)
        about = subject.about | {
            "bytes": len(data),
            "float16": half,
            "verdicts": VERDICTS,
            "onnxruntime_web": VERSION,
        }
        files.write_json(folder / _MADE_BY, about)
        (folder / "index.html").write_text(_page())
        (folder / "worker.js").write_bytes((_HERE / "worker.js").read_bytes())
        total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {"difference": difference, "bytes": total, "float16": half}


def _page() -> str:
    words = {
        "HEAD": "{{HEAD}}",  # known once the scripts' hashes are
        "WHERE": "The photo is looked at in this browser and goes nowhere else.",
        "KINDS": "JPEG, PNG, BMP, WebP or GIF",
        "ACCEPTED": "image/*",
        "ANSWERED": (_HERE / "answered.js").read_text(),
        "LIMIT_MB": str(_LIMIT_MB),
    }
    page = serve.filled_page(words)
    policy = serve.policy(
        page,
        script_src="'self' 'wasm-unsafe-eval'",
        worker_src="'self' blob:",
    )
    meta = (
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">'
    )
    return page.replace("{{HEAD}}", f"{meta}\n")


# ------------------------------------------------------------------- float16 weights


def _halved(model):
    """The same graph with its larger float32 weights stored as float16.

    They become float32 again as the graph is loaded, so that it computes as before.
    """
    import onnx as library

    halved = library.ModelProto()
    halved.CopyFrom(model)
    casts = []
    for weight in halved.graph.initializer:
        array = library.numpy_helper.to_array(weight)
        if array.dtype != np.float32 or array.size < 64:
            continue
        if np.abs(array).max() > np.finfo(np.float16).max:
            continue
        name = weight.name
        stored = library.numpy_helper.from_array(
            array.astype(np.float16), f"{name}_float16"
        )
        weight.CopyFrom(stored)
        casts.append(
            library.helper.make_node(
                "Cast", [stored.name], [name], to=library.TensorProto.FLOAT
            )
        )
    nodes = [*casts, *halved.graph.node]
    del halved.graph.node[:]
    halved.graph.node.extend(nodes)
    return halved


def _moves(subject: Subject, run) -> float:
    """By how much `run` moves a probability or score on the subject's examples."""
    moved = [
        np.abs(np.asarray(run(arrays)[name], np.float32) - expected).max()
        for _, arrays, outputs in subject.examples
        for name, expected in outputs.items()
    ]
    return float(np.max(moved))


# -------------------------------------------------------------------- onnxruntime-web


def _scripts(given: str | os.PathLike | None) -> dict[str, bytes]:
    """The package's files by name, and its licence."""
    if given is not None and Path(given).is_dir():
        found = _of_folder(Path(given))
    else:
        found = _of_tarball(_tarball(given))
    return found | {"LICENSE": _LICENCE.encode()}


def _of_folder(folder: Path) -> dict[str, bytes]:
    try:
        version = json.loads((folder / "package.json").read_text())["version"]
        found = {name: (folder / "dist" / name).read_bytes() for name in _SCRIPTS}
    except (OSError, ValueError, KeyError):
        raise InputError(
            f"--onnxruntime_web={folder}: not the npm package onnxruntime-web, with "
            "its package.json and dist/."
        ) from None
    if version != VERSION:
        raise InputError(
            f"--onnxruntime_web={folder}: version {version}, and {VERSION} is needed."
        )
    return found


def _tarball(given: str | os.PathLike | None) -> bytes:
    if given is not None:
        try:
            data = Path(given).read_bytes()
        except OSError:
            raise InputError(f"--onnxruntime_web={given}: no such file.") from None
        if not _right(data):
            raise InputError(
                f"--onnxruntime_web={given}: not the tarball of onnxruntime-web "
                f"{VERSION} (another SHA-512)."
            )
        return data
    kept = cached()
    if kept.is_file() and _right(data := kept.read_bytes()):
        return data
    data = _downloaded()
    with files.replacing(kept) as beside:
        beside.write_bytes(data)
    return data


def cached() -> Path:
    """Where the package's tarball is kept once it was fetched."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "sdfl_jax" / f"onnxruntime-web-{VERSION}.tgz"


def _downloaded() -> bytes:
    registry = os.environ.get("NPM_CONFIG_REGISTRY") or "https://registry.npmjs.org"
    url = f"{registry.rstrip('/')}/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
    try:
        with urllib.request.urlopen(url, timeout=60) as reply:
            data = reply.read()
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise InputError(
            f"onnxruntime-web {VERSION} ({SIZE}) cannot be fetched from {url} "
            f"({error}); fetch it elsewhere, or with `npm pack onnxruntime-web@"
            f"{VERSION}`, and give --onnxruntime_web=FILE."
        ) from None
    if not _right(data):
        raise InputError(f"{url}: not what it should be (another SHA-512).")
    return data


def _right(data: bytes) -> bool:
    return hashlib.sha512(data).hexdigest() == SHA512


def _of_tarball(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {
            name: tar.extractfile(f"package/dist/{name}").read() for name in _SCRIPTS
        }
