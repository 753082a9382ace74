"""`report.html`: one page that needs no network and no other file."""

import html
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from sdfl_jax.drawing import figures, page
from sdfl_jax.evaluators import Evaluation
from sdfl_jax.report import charts, curves, facts, tables
from sdfl_jax.report.gallery import SECTIONS, Gallery
from sdfl_jax.trees.nested import flat


def webpage(
    scores: Mapping,
    evaluation: Evaluation,
    gallery: Gallery | None = None,
    lines: Sequence[Mapping] = (),
) -> str:
    """`report.html`, with every chart and picture inside it."""
    sections = {
        "Metrics": _metrics(scores),
        "Curves": _curves(scores, evaluation),
        "Where it works": _parts(scores),
        "Robustness": _robustness_part(scores),
        "Training": _training(scores, lines),
        "Pictures": _pictures(gallery, evaluation) if gallery else [],
        "All metrics": _all_metrics(scores),
        "Model card": _card(scores.get("model_card")),
    }
    sections = {name: parts for name, parts in sections.items() if parts}
    links = "".join(
        f'<a href="#{_anchor(name)}">{html.escape(name)}</a>' for name in sections
    )
    parts = [
        f"<nav>{links}</nav>",
        _cards(scores),
        _terms(facts.measured(scores, evaluation)),
    ]
    for name, inner in sections.items():
        parts += [f'<h2 id="{_anchor(name)}">{html.escape(name)}</h2>', *inner]
    return page.page(facts.title(scores), parts)


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _cards(scores: Mapping) -> str:
    intervals = (scores.get("intervals") or {}).get("standard") or {}
    cards = []
    for key in facts.HEADLINE:
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
    return f"<figure>{page.picture(alt, figures.png(figure))}</figure>"


def _pair(drawn: Mapping[str, object]) -> str:
    inner = "".join(_chart(alt, figure) for alt, figure in drawn.items())
    return f'<div class="pair">{inner}</div>'


def _metrics(scores: Mapping) -> list[str]:
    rows = tables.summary_rows(scores)
    said = (
        "Standard protocol. Pixel metrics are means over manipulated images with a "
        "mask, and left out where there is none; image metrics are counted over all "
        "images; those of a kind or a mask "
        "area set its manipulated images against all authentic ones. In brackets: "
        "manipulated images. Baselines have not looked at the image."
    )
    return [_table(rows, tables.summary_columns(rows)), _said(said)]


def _all_metrics(scores: Mapping) -> list[str]:
    parts = []
    for name, words in facts.protocols(scores).items():
        rows = tables.metric_rows(scores, name)
        parts += [
            f"<h3>Protocol: {name}</h3>",
            _said(words),
            _table(rows, tables.METRIC_COLUMNS, ["meaning", "key"]),
        ]
    if scores.get("intervals"):
        said = "Intervals: bootstrap over images, or over source groups where known."
        parts.append(_said(said))
    videos = scores.get("videos")
    if videos:
        parts += ["<h3>Videos</h3>", _table(*facts.videos(videos))]
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
            _chart("Metrics at every threshold", charts.thresholds(curve, names)),
            _said("Means over manipulated images with a mask, the same cut for all."),
        ]
    return parts


def _parts(scores: Mapping) -> list[str]:
    drawn = {}
    for section, words in (
        ("kinds", "Pixel F1 by kind of manipulation"),
        ("areas", "Pixel F1 by manipulated share of the image"),
        ("sets", "Pixel F1 by data set"),
    ):
        values = {}
        for name, part in (scores.get(section) or {}).items():
            scored = part.get("standard", part)
            number = part.get("manipulated", (part.get("reference") or {}).get("n", 0))
            value = scored.get("pixel_f1_manipulated")
            values[name or "of unknown kind"] = value, number
        if values:
            drawn[words] = charts.groups(values, "pixel F1", words)
    return [_pair(drawn)] if drawn else []


def _robustness_part(scores: Mapping) -> list[str]:
    ways = facts.ways(scores)
    if not ways:
        return []
    names = {
        key: tables.heading(key) for way in ways.values() for key in way["metrics"]
    }
    parts = [_chart("Robustness", charts.robustness(ways, names, scores["standard"]))]
    for name, way in ways.items():
        rows, columns = facts.robustness(way)
        parts += [f"<h3>{html.escape(name)}</h3>", _table(rows, columns)]
    return parts


def _training(scores: Mapping, lines: Sequence[Mapping]) -> list[str]:
    if not lines:
        return []
    step = (scores.get("setting") or {}).get("step")
    return [_chart("Loss and accuracy over training", charts.training(lines, step))]


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
            if row["confidence"] is not None:
                planes["confidence"] = _png(row["confidence"])
            shown = "".join(
                f"<div>{inner}<figcaption>{name}</figcaption></div>"
                for name, inner in planes.items()
                if inner is not None or name == "mask"
            ).replace("<div>None", '<div class="faint">not known')
            said = html.escape(_caption(row, scores))
            parts.append(f'<div class="row"><p>{said}</p>{shown}</div>')
    return parts


def _caption(row: Mapping, scores: Mapping) -> str:
    said = [row["name"], figures.CLASSES[row["label"]]]
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
