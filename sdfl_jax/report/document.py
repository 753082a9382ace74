"""The report of an evaluation: `report.md`, and `report.html`, one page that needs no
network and no other file."""

import html
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from sdfl_jax import metrics, page
from sdfl_jax.config import flat
from sdfl_jax.errors import InputError
from sdfl_jax.evaluators import Evaluation
from sdfl_jax.files import replacing
from sdfl_jax.report import curves, tables
from sdfl_jax.report.gallery import SECTIONS, Gallery
from sdfl_jax.report.log import read_log

# The figures of the page's head.
_CARDS = (*tables.SUMMARY, "false_alarm_area_authentic")

_PROTOCOLS = {
    "standard": "The field's protocol: masks count from 50 %, pixel figures are means "
    "over manipulated images, image F1 is the true F1.",
    "reference": "The protocol of the study's own evaluator, for comparison with its "
    "tables: pixel F1 averages authentic images in (1 where mask and prediction are "
    "both empty), any mask value but 0 counts, and its image F1 is the harmonic mean "
    "of sensitivity and specificity.",
}

_SETTINGS = {
    "scoring": "scored at",
    "geometry": "geometry of the network's input",
    "tile": "tiles",
    "tta": "test-time augmentation",
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


def write_report(
    folder: str | os.PathLike,
    *,
    gallery: Gallery | None = None,
    workdir: str | os.PathLike | None = None,
) -> None:
    """Writes `report.md` and `report.html` beside the files they are made of.

    Args:
      folder: holds `metrics.json` and `evaluation.npz`.
      gallery: images to show.
      workdir: the run, whose `metrics.jsonl` gives the curves of training.
    """
    folder = Path(folder)
    scores, evaluation = read_scores(folder), Evaluation.load(folder)
    lines = read_log(workdir) if workdir is not None else []
    with replacing(folder / "report.md") as beside:
        text = markdown(scores, evaluation)
        beside.write_text(text, encoding="utf-8", errors="backslashreplace")
    with replacing(folder / "report.html") as beside:
        text = webpage(scores, evaluation, gallery, lines)
        beside.write_text(text, encoding="utf-8", errors="backslashreplace")


# Words


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
        image = calibrated.get("image_threshold")
        also = "" if image is None else f", of image scores {image:.3g}"
        said["best on validation data"] = f"of maps {calibrated['threshold']:.3g}{also}"
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


# Markdown


def markdown(scores: Mapping, evaluation: Evaluation) -> str:
    """`report.md`: the summary first, then every figure with what it is."""
    said = measured(scores, evaluation)
    parts = [
        f"# {title(scores)}",
        "\n".join(f"- {term}: {text}" for term, text in said.items()),
        tables.score_table(scores),
        "Pixel figures are means over manipulated images with a mask.",
    ]
    for name, words in _PROTOCOLS.items():
        parts += [f"## Protocol: {name}", words]
        parts.append(
            tables.table(tables.figure_rows(scores, name), tables.FIGURE_COLUMNS)
        )
    videos = scores.get("videos")
    if videos:
        parts += ["## Videos", tables.table(*_videos(videos))]
    ways = _ways(scores)
    if ways:
        parts.append("## Robustness")
        for name, way in ways.items():
            rows, columns = _robustness(way)
            parts += [f"{name}:", tables.table(rows, columns)]
    return "\n\n".join(parts) + "\n"


def _videos(videos: Mapping) -> tuple[list[dict], dict[str, str]]:
    """Figures per frame and per video, side by side."""
    ways = {key: part for key, part in videos.items() if isinstance(part, Mapping)}
    keys = dict.fromkeys(key for part in ways.values() for key in part)
    rows = [
        {"figure": tables.heading(key)} | {w: part.get(key) for w, part in ways.items()}
        for key in keys
        if any(isinstance(part.get(key), float) for part in ways.values())
    ]
    return rows, {"figure": "figure"} | {way: f"per {way}" for way in ways}


def _ways(scores: Mapping) -> dict[str, dict]:
    """Of each degradation `unit`, `levels` and the `figures` worth a curve."""
    return {
        name: {
            "unit": way["unit"],
            "levels": way["level"],
            "figures": {key: way[key] for key in _CARDS if key in way},
        }
        for name, way in (scores.get("robustness") or {}).items()
    }


def _robustness(way: Mapping) -> tuple[list[dict], dict[str, str]]:
    rows = [
        {"level": str(level)}
        | {key: values[i] for key, values in way["figures"].items()}
        for i, level in enumerate(way["levels"])
    ]
    return rows, {"level": way["unit"]} | {
        key: tables.heading(key) for key in way["figures"]
    }


# The page


def webpage(
    scores: Mapping,
    evaluation: Evaluation,
    gallery: Gallery | None = None,
    lines: Sequence[Mapping] = (),
) -> str:
    """`report.html`, with every chart and picture inside it."""
    sections = {
        "Figures": _figures(scores),
        "Curves": _curves(scores, evaluation),
        "Where it works": _parts(scores),
        "Robustness": _robustness_part(scores),
        "Training": _training(scores, lines),
        "Pictures": _pictures(gallery, evaluation) if gallery else [],
        "All figures": _all_figures(scores),
        "Model card": _card(scores.get("model_card")),
    }
    sections = {name: parts for name, parts in sections.items() if parts}
    links = "".join(
        f'<a href="#{_anchor(name)}">{html.escape(name)}</a>' for name in sections
    )
    parts = [
        f"<nav>{links}</nav>",
        _cards(scores),
        _terms(measured(scores, evaluation)),
    ]
    for name, inner in sections.items():
        parts += [f'<h2 id="{_anchor(name)}">{html.escape(name)}</h2>', *inner]
    return page.page(title(scores), parts)


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _cards(scores: Mapping) -> str:
    intervals = (scores.get("intervals") or {}).get("standard") or {}
    cards = []
    for key in _CARDS:
        value = scores["standard"].get(key)
        if value is not None:
            bounds = tables.interval(intervals.get(key)) or ""
            cards.append(
                f'<div class="card"><span>{html.escape(tables.heading(key))}</span>'
                f"<b>{value:.3f}</b><span>{bounds}</span></div>"
            )
    return f'<div class="cards">{"".join(cards)}</div>'


def _terms(said: Mapping[str, str]) -> str:
    pairs = "".join(
        f"<dt>{html.escape(term)}</dt><dd>{html.escape(text)}</dd>"
        for term, text in said.items()
    )
    return f"<dl>{pairs}</dl>"


def _table(rows: Sequence[Mapping], columns: Mapping[str, str], words=()) -> str:
    """A table with the numbers as Markdown shows them."""
    shown = [
        {key: tables.cell(row[key]) for key in columns if row.get(key) is not None}
        for row in rows
    ]
    return page.table(shown, columns, words)


def _said(text: str) -> str:
    return f'<p class="faint">{html.escape(text)}</p>'


def _chart(alt: str, figure) -> str:
    return f"<figure>{page.picture(alt, page.png(figure))}</figure>"


def _pair(charts: Mapping[str, object]) -> str:
    inner = "".join(_chart(alt, figure) for alt, figure in charts.items())
    return f'<div class="pair">{inner}</div>'


def _figures(scores: Mapping) -> list[str]:
    columns = {"what": ""} | {key: tables.heading(key) for key in tables.SUMMARY}
    said = (
        "Standard protocol. Pixel figures are means over manipulated images with a "
        "mask, image figures are counted over all images; those of a kind or a mask "
        "area set its manipulated images against all authentic ones. In brackets: "
        "manipulated images. Baselines have not looked at the image."
    )
    return [_table(tables.summary_rows(scores), columns), _said(said)]


def _all_figures(scores: Mapping) -> list[str]:
    parts = []
    for name, words in _PROTOCOLS.items():
        rows = tables.figure_rows(scores, name)
        parts += [
            f"<h3>Protocol: {name}</h3>",
            _said(words),
            _table(rows, tables.FIGURE_COLUMNS, ["meaning", "key"]),
        ]
    if scores.get("intervals"):
        said = "Intervals: bootstrap over images, or over source groups where known."
        parts.append(_said(said))
    videos = scores.get("videos")
    if videos:
        parts += ["<h3>Videos</h3>", _table(*_videos(videos))]
    return parts


def _curves(scores: Mapping, evaluation: Evaluation) -> list[str]:
    label, score = evaluation.label, evaluation.score
    threshold = scores["reference"]["threshold"]
    found = evaluation.has_mask & (label == 1)
    drawn = {
        "ROC curve of image scores": curves.roc(label, score, "ROC of image scores"),
        "DET curve of image scores": curves.det(
            label, score, scores["standard"].get("image_eer")
        ),
        "Precision and recall of images": curves.precision_recall(label, score),
        "Precision and recall of pixels": curves.pixel_precision_recall(
            evaluation.histograms[found]
        ),
        "Reliability diagram": curves.reliability(label, score),
        "Confusion matrix": curves.confusion(
            scores["reference"]["confusion"], threshold
        ),
    }
    parts = [
        _pair(drawn),
        _said("Precision and recall of pixels pool all pixels of manipulated images."),
        _chart("Scores of both classes", curves.scores(label, score, threshold)),
    ]
    curve = scores.get("threshold_curve")
    if curve:
        names = {key: tables.heading(key) for key in curve}
        parts += [
            "<h3>At every threshold</h3>",
            _chart("Figures at every threshold", curves.thresholds(curve, names)),
            _said("Means over manipulated images with a mask, the same cut for all."),
        ]
    return parts


def _parts(scores: Mapping) -> list[str]:
    charts = {}
    for section, words in (
        ("kinds", "Pixel F1 by kind of manipulation"),
        ("areas", "Pixel F1 by manipulated share of the image"),
        ("sets", "Pixel F1 by data set"),
    ):
        values = {}
        for name, part in (scores.get(section) or {}).items():
            figures = part.get("standard", part)
            number = part.get("manipulated", (part.get("reference") or {}).get("n", 0))
            value = figures.get("pixel_f1_manipulated")
            values[name or "of unknown kind"] = value, number
        if values:
            charts[words] = curves.groups(values, "pixel F1", words)
    return [_pair(charts)] if charts else []


def _robustness_part(scores: Mapping) -> list[str]:
    ways = _ways(scores)
    if not ways:
        return []
    names = {
        key: tables.heading(key) for way in ways.values() for key in way["figures"]
    }
    parts = [_chart("Robustness", curves.robustness(ways, names, scores["standard"]))]
    for name, way in ways.items():
        rows, columns = _robustness(way)
        parts += [f"<h3>{html.escape(name)}</h3>", _table(rows, columns)]
    return parts


def _training(scores: Mapping, lines: Sequence[Mapping]) -> list[str]:
    if not lines:
        return []
    step = (scores.get("setting") or {}).get("step")
    return [_chart("Loss and accuracy over training", curves.training(lines, step))]


def _pictures(gallery: Gallery, evaluation: Evaluation) -> list[str]:
    scores = {}
    for known, score in zip(evaluation.known, evaluation.score, strict=True):
        # Only where several sets were scored do pictures say of which they are.
        for name in ((known.get("set", ""), known["name"]), ("", known["name"])):
            scores.setdefault(name, score)
    parts = []
    for section, rows in gallery.sections.items():
        parts.append(f"<h3>{SECTIONS[section]}</h3>")
        for row in rows:
            planes = {
                "image": _jpeg(row["image"]),
                "mask": None if row["mask"] is None else _png(row["mask"]),
                "prediction": _png(row["mask_probs"]),
                "overlay": _jpeg(row["overlay"]),
            }
            shown = "".join(
                f"<div>{inner}<figcaption>{name}</figcaption></div>"
                for name, inner in planes.items()
                if inner is not None or name == "mask"
            ).replace("<div>None", '<div class="faint">not known')
            said = html.escape(_caption(row, scores))
            parts.append(f'<div class="row"><p>{said}</p>{shown}</div>')
    return parts


def _caption(row: Mapping, scores: Mapping) -> str:
    said = [row["name"], page.CLASSES[row["label"]]]
    if row["kind"]:
        said.append(row["kind"])
    if row["pixel_f1"] is not None:
        said.append(f"pixel F1 {row['pixel_f1']:.3f}")
    elif not row["label"]:
        said.append(f"false alarm on {100 * row['predicted_area']:.1f} %")
    score = scores.get((row["set"], row["name"]))
    if score is not None:
        said.append(f"score {score:.3f}")
    return " · ".join(said)


def _jpeg(image: np.ndarray) -> str:
    # For the eye alone, so a little loss does no harm.
    options = [cv2.IMWRITE_JPEG_QUALITY, 88]
    data = cv2.imencode(".jpg", image[..., ::-1], options)[1].tobytes()
    return page.picture("", data, "jpeg")


def _png(plane: np.ndarray) -> str:
    return page.picture("", cv2.imencode(".png", plane)[1].tobytes())


def _card(card: Mapping | None) -> list[str]:
    if not card:
        return []
    said = {name: str(value) for name, value in flat(card).items()}
    return [f"<details><summary>All of it</summary>{_terms(said)}</details>"]
