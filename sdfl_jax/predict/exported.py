"""Answers with a file that `sdfl export --format=onnx` wrote. Imports no JAX."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from sdfl_jax.errors import InputError
from sdfl_jax.predict.answer import Answering

FORMAT = 1  # of the metadata: what a reader has to know how to read


class Exported(Answering):
    """Answers with onnxruntime, as the network that was exported would.

    `paths` are files of one network at several sizes: an image is answered by the
    smallest that holds it, or in tiles of the largest. `about` is the metadata of the
    first. Raises InputError for files that are none, or of different networks.
    """

    def __init__(self, paths: Sequence[str | os.PathLike]):
        sessions = [_session(path) for path in paths]
        abouts = [
            _about(path, session) for path, session in zip(paths, sessions, strict=True)
        ]
        self.about = about = abouts[0]
        for path, other in zip(paths, abouts, strict=True):
            for what in ("sha256", "batch"):
                if other[what] != about[what]:
                    raise InputError(
                        f"--onnx={path}: its {what} is not that of {paths[0]}; give "
                        "files of one network and batch at several sizes."
                    )
        shapes = [tuple(other["image_size"]) for other in abouts]
        self._sessions = dict(zip(shapes, sessions, strict=True))
        self.settings = {"image_size": shapes[0][0], "geometry": about["geometry"]}
        self.settings["inputs"] = tuple(about["reads"])
        if about["geometry"] == "crop":
            self.settings |= {"shapes": shapes, "overlap": about["overlap"]}
        elif len(shapes) > 1:
            raise InputError(
                f"--onnx={paths[1]}: the network sees every image at one size; give "
                "one file."
            )
        self.sha256, self.calibration = about["sha256"], about["calibration"]
        self.mask_source = about["mask_source"]
        self.pixel_threshold = about["pixel_threshold"]
        self.image_threshold = about["image_threshold"]

    def _step(self, arrays: Mapping) -> Mapping:
        session = self._sessions[arrays["image"].shape[1:3]]
        names = [output.name for output in session.get_outputs()]
        given = {one.name: arrays[one.name] for one in session.get_inputs()}
        return dict(zip(names, session.run(names, given), strict=True))

    def _rows(self, count: int) -> int:
        return self.batch_size

    @property
    def batch_size(self) -> int:
        return self.about["batch"]


def _session(path: str | os.PathLike):
    try:
        import onnxruntime
    except ImportError:
        raise InputError(
            f"--onnx={path}: needs onnxruntime; pip install onnxruntime."
        ) from None
    if not Path(path).is_file():
        raise InputError(f"--onnx={path}: no such file.")
    onnxruntime.set_default_logger_severity(3)  # its remarks on shapes help nobody
    there = onnxruntime.get_available_providers()
    wanted = [p for p in ("CUDA", "CPU") if f"{p}ExecutionProvider" in there]
    try:
        return onnxruntime.InferenceSession(
            os.fspath(path), providers=[f"{p}ExecutionProvider" for p in wanted]
        )
    except Exception as error:  # each kind of damage has its own
        first = " ".join(str(error).split())[:200]
        raise InputError(f"--onnx={path}: cannot be run ({first}).") from None


def _about(path: str | os.PathLike, session) -> dict:
    """The metadata, each value JSON."""
    written = session.get_modelmeta().custom_metadata_map
    try:
        about = {name: json.loads(value) for name, value in written.items()}
        about.setdefault("reads", ["rgb"])  # of files written before there was more
        made = about["sdfl_format"]
    except (ValueError, KeyError):
        raise InputError(
            f"--onnx={path}: not a file of `sdfl export --format=onnx`."
        ) from None
    if made != FORMAT:
        raise InputError(
            f"--onnx={path}: its format is {made}, and {FORMAT} is known here; export "
            "it again."
        )
    if "mask_probs" not in about["outputs"]:
        raise InputError(
            f"--onnx={path}: {about['network']} gives a score and no mask; predict "
            "with its --workdir, whose masks are Grad-CAM."
        )
    return about
