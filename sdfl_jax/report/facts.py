"""What an evaluation measured, read out of `metrics.json` and put into words."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sdfl_jax import metrics
from sdfl_jax.errors import InputError
from sdfl_jax.evaluators import Evaluation
from sdfl_jax.report import tables

# The metrics that a reader should see first.
HEADLINE = (*tables.SUMMARY, "false_alarm_area_authentic")

PROTOCOLS = {
    "standard": "The field's protocol: masks count from 50 %, pixel metrics are means "
    "over manipulated images, image F1 is the true F1.",
    "reference": "The protocol of the study's own evaluator, for comparison with its "
    "tables: pixel F1 averages authentic images in (1 where mask and prediction are "
    "both empty), any mask value but 0 counts, and its image F1 is the harmonic mean "
    "of sensitivity and specificity.",
    "benco": "IMDL-BenCo's definitions: pixel metrics are means over all images, and "
    "an image without a region counts 0. The package scores at the network's "
    "resolution (`--scoring=network`).",
    "trufor": "TruFor's definitions: pixel F1 of the better of the map and its "
    "inverse, without the pixels near the regions' borders.",
}

_SETTINGS = {
    "scoring": "scored at",
    "inputs": "the network reads",
    "geometry": "geometry of the network's input",
    "tile": "tiles",
    "tta": "test-time augmentation",
    "enlarge": "small images are also seen enlarged, by a factor of",
    "empty_mask": "empty masks",
    "size_mismatch": "masks of another size",
    "permute": "better of the map and its inverse",
    "mask_source": "maps come from",
    "score_source": "image scores come from",
}


def read_scores(folder: str | os.PathLike) -> dict:
    """`metrics.json` of an output folder of evaluate; `InputError` where it is none."""
    path = Path(folder) / "metrics.json"
    try:
        scores = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{folder}: no metrics.json there; give an output folder of evaluate."
        ) from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}).") from None
    lacking = {"standard", "reference"} - set(scores)
    if lacking:
        raise InputError(
            f"{path}: without {sorted(lacking)}; give an output folder of evaluate."
        )
    return scores


def protocols(scores: Mapping) -> dict[str, str]:
    """The protocols that were scored, in words; older files hold two of them."""
    return {name: words for name, words in PROTOCOLS.items() if name in scores}


def title(scores: Mapping) -> str:
    """What was scored on what."""
    setting = scores.get("setting") or {}
    network = _model(setting).get("name", "predictions")
    names = ", ".join(part["name"] for part in _data(scores))
    return f"{network} on {names}" if names else f"Evaluation of {network}"


def measured(scores: Mapping, evaluation: Evaluation) -> dict[str, str]:
    """What was measured and how, term by term."""
    setting = scores.get("setting") or {}
    authentic, manipulated = np.bincount(evaluation.label, minlength=2)
    regions = np.count_nonzero(evaluation.has_mask & (evaluation.label == 1))
    said = {
        "images": f"{len(evaluation.label):,}: {manipulated:,} manipulated "
        f"({regions:,} of them with a mask), {authentic:,} authentic",
    }
    for part in _data(scores):
        text = f"{part['examples']:,} images" if "examples" in part else ""
        if part.get("manifest_sha256"):
            text += f", manifest sha256 {part['manifest_sha256'][:16]}"
        said[f"data: {part['name']}"] = text or part.get("path", "")
    model = _model(setting)
    if model:
        rest = ", ".join(f"{k} {v}" for k, v in model.items() if k != "name")
        said["network"] = model["name"] + (f" ({rest})" if rest else "")
    if setting.get("step") is not None:
        said["checkpoint"] = (
            f"{setting.get('checkpoint', '')}, step {setting['step']:,}"
        )
        said["checkpoint"] = said["checkpoint"].removeprefix(", ")
    threshold = scores["reference"]["threshold"]
    said["threshold"] = f"{threshold:.3g}, of maps and of image scores"
    calibrated = scores.get("validation_threshold")
    if calibrated:
        best = {"of maps": calibrated["threshold"]}
        best["of image scores"] = calibrated.get("image_threshold")
        said["best on validation data"] = ", ".join(
            f"{what} {value:.3g}" for what, value in best.items() if value is not None
        )
    if scores.get("calibration"):
        said["verdicts, by the network's calibration"] = verdicts(scores["calibration"])
    for key, term in _SETTINGS.items():
        value = setting.get(key)
        if value not in (None, False, "", 0):
            overlap = (
                f", overlap {setting['overlap']}" if setting.get("overlap") else ""
            )
            said[term] = (
                f"{value} pixels{overlap}" if key == "tile" else _say(key, value)
            )
    for key, term in (("resized", "masks resized"), ("skipped", "images skipped")):
        part = scores.get(key)
        if part and part.get("count"):
            names = ", ".join(part["names"][:3])
            more = ", ..." if part["count"] > 3 else ""
            said[term] = f"{part['count']:,}: {names}{more}"
    if "version" in setting:
        said["version"] = f"sdfl_jax {setting['version']}"
    return said


def verdicts(found: Mapping) -> str:
    """What a calibration is worth here, see `report.likelihood_ratios.measured`."""
    text = "; ".join(
        f"of {label} images "
        + ", ".join(f"{share:.1%} {verdict}" for verdict, share in shares.items())
        for label, shares in found["verdicts"].items()
    )
    if "cllr" in found:
        text += "; Cllr {cllr:.3f} ({cllr_minimum:.3f} at best)".format(**found)
    made = "these very images" if found["same_images"] else found["made_on"]
    return f"{text}; made on {made}" if made else text


_VALUES = {
    "scoring": {"original": "each image's own size", "network": "the network's size"},
    "geometry": {
        "resize": "stretched to the network's size",
        "crop": "native resolution",
    },
    "empty_mask": metrics.EMPTY_MASK,
    "size_mismatch": {
        "resize": "resized to the image's, nearest neighbour",
        "skip": "their images are left out",
        "error": "refused",
    },
}


def _say(key: str, value) -> str:
    if value is True:
        return "yes"
    return _VALUES.get(key, {}).get(value, str(value))


def _data(scores: Mapping) -> Sequence[Mapping]:
    """Name, path and hash of each data set; older files hold one name alone."""
    found = scores.get("data")
    if found:
        return found
    setting = scores.get("setting") or {}
    known = {key: setting[key] for key in ("examples",) if key in setting}
    return [{"name": setting["data"], **known}] if "data" in setting else []


def _model(setting: Mapping) -> Mapping:
    return (setting.get("config") or {}).get("model") or {}


def videos(videos: Mapping) -> tuple[list[dict], dict[str, str]]:
    """Rows and columns of a table: metrics per frame and per video, side by side."""
    ways = {key: part for key, part in videos.items() if isinstance(part, Mapping)}
    keys = dict.fromkeys(key for part in ways.values() for key in part)
    rows = [
        {"metric": tables.heading(key)} | {w: part.get(key) for w, part in ways.items()}
        for key in keys
        if any(isinstance(part.get(key), float) for part in ways.values())
    ]
    return rows, {"metric": "metric"} | {way: f"per {way}" for way in ways}


def ways(scores: Mapping) -> dict[str, dict]:
    """Of each degradation `unit`, `strengths` and the `metrics` worth a curve."""
    return {
        name: {
            "unit": way["unit"],
            "strengths": way.get("strength") or way["level"],  # older runs' name
            "metrics": {key: way[key] for key in HEADLINE if key in way},
        }
        for name, way in (scores.get("robustness") or {}).items()
    }


def robustness(way: Mapping) -> tuple[list[dict], dict[str, str]]:
    """Rows, a strength each, and columns of one of `ways`."""
    rows = [
        {"strength": str(strength)}
        | {key: values[i] for key, values in way["metrics"].items()}
        for i, strength in enumerate(way["strengths"])
    ]
    return rows, {"strength": way["unit"]} | {
        key: tables.heading(key) for key in way["metrics"]
    }
