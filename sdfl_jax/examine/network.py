"""The line `network`: what a trained network says of the pixels, and how firmly."""

import math
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from sdfl_jax.data import images, tiling
from sdfl_jax.drawing.overlay import overlay, thumbnail
from sdfl_jax.errors import InputError
from sdfl_jax.examine.aids import resaved
from sdfl_jax.examine.finding import SIDE, Finding
from sdfl_jax.metrics.calibration import verdict
from sdfl_jax.predict.answer import Answer, Answering

_RESAVE = 90  # quality of the mild resave
_MAX_PIXELS = 60_000_000


def pixels(path: Path) -> np.ndarray:
    """The image as the network gets it, uint8 H W 3: what a worker process decodes."""
    return images.read_image(path, max_pixels=_MAX_PIXELS)


def network(predictor: Answering, image: np.ndarray) -> tuple[Finding, dict]:
    """The line, and the verdict: `verdict`, `score`, `why`, `false_alarms`, `data`.

    Raises `InputError` where the network's answer is no number.
    """
    answer = _answer(predictor, image)
    threshold, ratio = predictor.pixel_threshold, answer.log10_ratio
    found = {
        "weights_sha256": predictor.sha256,
        "score": round(answer.score, 4),
        "log10_likelihood_ratio": None if ratio is None else round(ratio, 2),
        "image_threshold": round(float(predictor.image_threshold), 4),
        "pixel_threshold": round(float(threshold), 4),
        "marked_area": round(answer.area, 4),
        "mask_source": answer.mask_source,
        "input": _input(predictor.settings, image),
        "smallest_edit": _smallest(predictor, image),
        "after_resave": _after_resave(predictor, answer),
    }
    finding = Finding(
        _said(found),
        certainty="The score is a network's, not a probability. How it behaves on "
        "authentic photographs is known only where it was calibrated on named data.",
        limits="It finds edits like those it was trained on. It cannot find wholly "
        "generated or wholly re-rendered images, nor edits of a few pixels; strong "
        "compression, resizing and messengers wipe its traces away, and it may mark "
        "parts of authentic photographs.",
        found=found,
    )
    finding.show(
        "overlay.jpg",
        overlay(thumbnail(image, SIDE), thumbnail(answer.grey, SIDE)),
        "What the network marks, tinted red; the line runs where it is half sure.",
    )
    finding.show("mask.png", answer.grey, "The mask: white where it marks surely.")
    return finding, judged(predictor, answer.score)


def judged(predictor: Answering, score: float) -> dict:
    """The verdict, its reason, and the false alarms at its threshold where known."""
    calibration, said = predictor.calibration, verdict(score, predictor.calibration)
    if calibration is None:
        why = "This network was not calibrated: no verdict follows from its score."
        return {"verdict": said, "score": round(score, 4), "why": why}
    low, high = calibration["band"]
    rate, data = _false_alarms(calibration)
    where = {
        "manipulated": f"reaches {high:.3g}",
        "no manipulation found": f"stays below {low:.3g}",
        "inconclusive": f"lies between {low:.3g} and {high:.3g}",
    }[said]
    why = (
        f"Its score {score:.3g} {where}. From {high:.3g} on, {rate:.1%} of the "
        f"authentic photographs of {data} are called manipulated."
    )
    return {
        "verdict": said,
        "score": round(score, 4),
        "why": why,
        "false_alarms": rate,
        "data": data,
    }


def _false_alarms(calibration: Mapping) -> tuple[float, str]:
    """The share of authentic photographs from the band's end on, and of which data."""
    if "false_alarms" in calibration:  # of `sdfl_jax.report calibrate`
        return calibration["false_alarms"], calibration["data"]
    rate = calibration["called_manipulated"]["authentic"]  # of `sdfl_jax.predict.ship`
    return rate, f"its {calibration['authentic']:,} images kept aside"


def _answer(predictor: Answering, image: np.ndarray) -> Answer:
    (found,) = predictor.of_images([("photograph", image)])
    if isinstance(found, dict):
        raise InputError(found["error"])
    return found


def _after_resave(predictor: Answering, answer: Answer) -> dict:
    """Whether score and mask stay after a mild resave, of the part most marked.

    The part is one tile of the network, which is the whole image where that is smaller
    or goes in stretched.
    """
    image = answer.image
    height, width = image.shape[:2]
    x, y, before = 0, 0, answer
    if predictor.settings["geometry"] != "resize":
        side = max(tiling.shape_of_rows((height, width), canvas=False))
        x, y = _most_marked(answer.mask, side)
        image = image[y : y + side, x : x + side]
        if image.shape[:2] != (height, width):
            before = _answer(predictor, np.ascontiguousarray(image))
    again = _answer(predictor, resaved(image, _RESAVE))
    union = int((before.mask | again.mask).sum())
    both = int((before.mask & again.mask).sum())
    return {
        "quality": _RESAVE,
        "part": {"x": x, "y": y, "width": image.shape[1], "height": image.shape[0]},
        "whole_image": image.shape[:2] == (height, width),
        "score_before": round(before.score, 4),
        "score": round(again.score, 4),
        "overlap_of_masks": round(both / union, 3) if union else None,
    }


def _most_marked(mask: np.ndarray, side: int) -> tuple[int, int]:
    """Where the square with most of the mask begins, x and y, on the grid of 8x8.

    The middle, where nothing is marked.
    """
    size = (mask.shape[1] // 64 + 1, mask.shape[0] // 64 + 1)
    small = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    sums = cv2.boxFilter(small, -1, (side // 64, side // 64), borderType=0)
    row, column = np.unravel_index(np.argmax(sums), sums.shape)
    centre = (64 * column, 64 * row) if mask.any() else np.array(mask.shape[::-1]) // 2
    largest = (max(0, n - side) for n in mask.shape[::-1])
    return tuple(
        int(min(max(0, c - side // 2), most)) // 8 * 8
        for c, most in zip(centre, largest, strict=True)
    )


def _input(settings: Mapping, image: np.ndarray) -> dict:
    """How the image went in: stretched to one size, or in tiles at its own, and
    enlarged to which size (height, width) beside that."""
    height, width = image.shape[:2]
    if settings["geometry"] == "resize":
        size = settings["image_size"]
        return {"resized_to": [size, size], "tiles": 1, "second_look": None}
    tiles = tiling.number_of_tiles((height, width), tiling.MAX_SIDE, tiling.OVERLAP)
    look = settings.get("again", tiling.ONCE)
    again = look.size((height, width), tiling.MAX_SIDE)
    return {
        "resized_to": None,
        "tiles": tiles,
        "second_look": list(again) if again else None,
    }


def _smallest(predictor: Answering, image: np.ndarray) -> int:
    """Pixels across of four cells of a mask at a quarter of the network's input."""
    if predictor.settings["geometry"] != "resize":
        return 16
    return math.ceil(16 * max(image.shape[:2]) / predictor.settings["image_size"])


def _said_of_ratio(ratio: float | None) -> list[str]:
    """A sentence, where the calibration knows ratios."""
    if ratio is None:
        return []
    times = f"{10 ** abs(ratio):.2g} times"
    order = ("manipulated", "authentic") if ratio >= 0 else ("authentic", "manipulated")
    return [
        f"Images like those of its calibration score so {times} as often where they "
        f"are {order[0]} as where they are {order[1]} (log10 of the likelihood ratio: "
        f"{ratio:+.2f})."
    ]


def _said(found: dict) -> list[str]:
    how, after = found["input"], found["after_resave"]
    if how["resized_to"]:
        went = "The image went in stretched to {} x {} pixels.".format(
            *how["resized_to"]
        )
    else:
        went = f"The image went in at its own size, in {how['tiles']} tile(s)"
        if how["second_look"]:
            tall, wide = how["second_look"]
            went += f", and enlarged to {wide} x {tall} pixels; the means of both count"
        went += "."
    marks = (
        f"It marks {found['marked_area']:.1%} of the area."
        if found["marked_area"]
        else "It marks nothing."
    )
    kept = after["overlap_of_masks"]
    stays = (
        "neither mask marks anything"
        if kept is None
        else f"the masks share {kept:.0%} of what either marks"
    )
    place = after["part"]
    part = (
        "the image"
        if after["whole_image"]
        else f"the part from column {place['x']}, row {place['y']} on "
        f"({place['width']} x {place['height']} pixels)"
    )
    return [
        f"Score {found['score']:.3f} (the network's own threshold: "
        f"{found['image_threshold']:.3f}).",
        *_said_of_ratio(found["log10_likelihood_ratio"]),
        marks,
        went,
        f"After a resave at quality {after['quality']} the score of {part} is "
        f"{after['score']:.3f} ({after['score_before']:.3f} before), and {stays}.",
    ]
