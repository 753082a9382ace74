"""What a calibrated score says: a verdict, and how strong the evidence is.

A calibration is what `sdfl_jax.report calibrate` makes of an evaluation, a mapping. Of
it `band` (low, high) decides verdicts, and `logistic` (slope, intercept) with `images`
(of each class) gives likelihood ratios; other keys tell where these come from.
"""

import math
from collections.abc import Mapping

VERDICTS = ("no manipulation found", "inconclusive", "manipulated")
_EDGE = 1e-6  # scores of 0 and 1 stand for this far from them


def verdict(score: float, calibration: Mapping | None) -> str:
    """One of `VERDICTS`, from a score and the `band` of its network's calibration.

    From the band's upper end on an image is called manipulated, which the chosen share
    of authentic photographs reach; below its lower end nothing was found. A network
    without calibration, or a score that is no number, says nothing: "inconclusive".
    """
    if calibration is None or not math.isfinite(score):
        return "inconclusive"
    low, high = calibration["band"]
    if score >= high:
        return "manipulated"
    return "no manipulation found" if score < low else "inconclusive"


def log10_ratio(score: float, calibration: Mapping | None) -> float | None:
    """How much more often manipulated images score so than authentic ones, as log10.

    None where the calibration knows no ratios. No ratio is beyond what so many images
    can show: for manipulation at most the number of authentic ones it was fitted to,
    against it that of manipulated ones.
    """
    if not calibration or not calibration.get("logistic") or not math.isfinite(score):
        return None
    fit, images = calibration["logistic"], calibration["images"]
    inside = min(max(score, _EDGE), 1 - _EDGE)
    ratio = fit["slope"] * math.log(inside / (1 - inside)) + fit["intercept"]
    ratio /= math.log(10)
    most, least = math.log10(images["authentic"]), -math.log10(images["manipulated"])
    return min(max(ratio, least), most)


def problem(calibration) -> str | None:
    """Why that is no calibration, in a few words; None where it is one."""
    try:
        low, high = (float(end) for end in calibration["band"])
        log10_ratio(0.5, calibration)
    except (ValueError, KeyError, TypeError, AttributeError):
        return "no calibration of `sdfl_jax.report calibrate`"
    if not 0 <= low <= high <= 1:
        return f"a band of {low} to {high}, not within 0 to 1"
    return None
