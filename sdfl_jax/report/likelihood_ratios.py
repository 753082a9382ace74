"""From scores to evidence: likelihood ratios, thresholds by false alarms, a band.

A likelihood ratio says how much more often manipulated images get such a score than
authentic ones do. Cllr is its cost in bits (Bruemmer and du Preez, Application-
independent evaluation of speaker detection, 2006): 0 for perfect evidence, 1 for none.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Integer
from scipy.special import expit, logit
from scipy.stats import beta
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from sdfl_jax import metrics
from sdfl_jax.drawing import figures
from sdfl_jax.errors import InputError
from sdfl_jax.evaluators import Evaluation
from sdfl_jax.files import write_json
from sdfl_jax.metrics.calibration import VERDICTS, log10_ratio, verdict
from sdfl_jax.report import facts

LEAST = 50  # images of a class, below which its rates are guesses
RATES = (0.01, 0.05, 0.10)  # of authentic images that are called manipulated
_FOLDS = 5
_EDGE = 1e-6  # scores of 0 and 1 stand for this far from them
_RESAMPLES = 1000


def calibrate(evaluation: Evaluation, *, false_alarms: float = 0.05) -> dict:
    """What `calibration.json` holds, from an evaluation of whole images.

    `logistic` (slope, intercept) and `isotonic` (points) map a score to a natural
    log-likelihood ratio; `cllr` and `ece` tell before and after, the latter on folds
    that took no part in fitting and share no source group with those that did;
    `thresholds` hold for each of `RATES` the score, its 95 % interval, and the shares
    of both classes at or above it with theirs; `band` (low, high) is where a verdict is
    inconclusive: from the score whose ratio is 1 up to the threshold at `false_alarms`.
    What verdicts then are (`verdicts`, `false_alarms`) is told by those folds as well,
    each with a band of the others. `images_sha256` stands for the images' names.

    Raises `InputError` for fewer than `LEAST` images of a class, for scores outside
    [0, 1], and for those that do not tell the classes apart.
    """
    label, score = evaluation.label.astype(int), evaluation.score.astype(np.float64)
    _refuse(label, score)
    slope, intercept = logistic(label, score)
    if not slope > 0:
        raise InputError(
            "The scores do not tell manipulated from authentic images (a higher score "
            "is no sign of manipulation): there is nothing to calibrate."
        )
    by_logistic, by_isotonic, said = _of_other_images(
        label, score, evaluation.groups, false_alarms
    )
    prior = logit(label.mean())
    thresholds = {f"{rate:g}": _threshold(label, score, rate) for rate in RATES}
    alarms = int((said[label == 0] == "manipulated").sum())
    return {
        "schema": "sdfl-calibration-1",
        "data": ", ".join(evaluation.set_names),
        "images": {
            "manipulated": int((label == 1).sum()),
            "authentic": int((label == 0).sum()),
        },
        "images_sha256": _names(evaluation),
        "logistic": {"slope": slope, "intercept": intercept},
        "isotonic": _points(label, score),
        "cllr": {
            "before": cllr(label, _logit(score)),
            "logistic": cllr(label, by_logistic),
            "isotonic": cllr(label, by_isotonic),
            "minimum": cllr(label, _isotonic(label, score, score)),
        },
        "ece": {
            "before": _ece(label, score),
            "logistic": _ece(label, expit(by_logistic + prior)),
            "isotonic": _ece(label, expit(by_isotonic + prior)),
        },
        "thresholds": thresholds,
        "band": _band(label, score, false_alarms),
        "false_alarms": alarms / int((label == 0).sum()),
        "false_alarms_interval": _exact(alarms, int((label == 0).sum())),
        "verdicts": _shares(label, said),
    }


def measured(evaluation: Evaluation, calibration: Mapping) -> dict:
    """What a calibration that was made before is worth on these images.

    `made_on` (its data), `same_images` (whether it was made on these very ones, which
    flatters it), `band`, `verdicts` (the share of each class that gets each),
    `false_alarms` and `found` (the shares called manipulated) with 95 % intervals; and
    where it knows likelihood ratios their `cllr`, its `cllr_minimum` and `ece`. Of a
    class without images nothing is told.
    """
    label, score = evaluation.label.astype(int), evaluation.score.astype(np.float64)
    said = np.array([verdict(value, calibration) for value in score])
    found = {
        "made_on": calibration.get("data"),
        "same_images": calibration.get("images_sha256") == _names(evaluation),
        "band": list(calibration["band"]),
        "verdicts": _shares(label, said),
    }
    for value, name in ((0, "false_alarms"), (1, "found")):
        count, of = int((said[label == value] == "manipulated").sum()), label == value
        if of.any():
            found |= {name: count / int(of.sum())}
            found |= {f"{name}_interval": _exact(count, int(of.sum()))}
    ratios = [log10_ratio(value, calibration) for value in score]
    if None not in ratios and len(np.unique(label)) == 2:
        ratios = np.log(10) * np.array(ratios)
        found["cllr"] = cllr(label, ratios)
        found["cllr_minimum"] = cllr(label, _isotonic(label, score, score))
        found["ece"] = _ece(label, expit(ratios + logit(label.mean())))
    return found


def _names(evaluation: Evaluation) -> str:
    names = sorted([one.get("set", ""), one["name"]] for one in evaluation.known)
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()


def cllr(label: Integer[np.ndarray, "N"], ratios: Float[np.ndarray, "N"]) -> float:
    """The cost of natural log-likelihood ratios in bits, both classes counting half."""
    cost = np.logaddexp(0, np.where(label == 1, -ratios, ratios)) / np.log(2)
    return float((cost[label == 1].mean() + cost[label == 0].mean()) / 2)


def _refuse(label: np.ndarray, score: np.ndarray):
    for value, name in ((1, "manipulated"), (0, "authentic")):
        count = int((label == value).sum())
        if count < LEAST:
            raise InputError(
                f"{count} {name} images: {LEAST} or more of each class are needed, for "
                "the rates of fewer are guesses."
            )
    if not np.isfinite(score).all() or score.min() < 0 or score.max() > 1:
        raise InputError("Scores outside 0 to 1: they are none of a network's.")


def _logit(score: np.ndarray) -> np.ndarray:
    return logit(np.clip(score, _EDGE, 1 - _EDGE))


def _balanced(label: np.ndarray) -> np.ndarray:
    """Weights by which both classes count half: a ratio does not know how many there
    are of each."""
    share = label.mean()
    return np.where(label == 1, 0.5 / share, 0.5 / (1 - share))


def logistic(label: np.ndarray, score: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of the log-likelihood ratio over the score's logit."""
    # Barely held back, so that classes which do not overlap get a finite slope.
    model = LogisticRegression(C=1e3)
    model.fit(_logit(score)[:, None], label, sample_weight=_balanced(label))
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def _isotonic(label: np.ndarray, score: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Log-likelihood ratios at the scores `at`, by the pool of adjacent violators."""
    return _logit(_pooled(label, score).predict(at))


def _pooled(label: np.ndarray, score: np.ndarray) -> IsotonicRegression:
    model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    return model.fit(score, label, sample_weight=_balanced(label))


def _points(label: np.ndarray, score: np.ndarray) -> dict[str, list[float]]:
    model = _pooled(label, score)
    return {
        "score": np.round(model.X_thresholds_, 6).tolist(),
        "ratio": np.round(_logit(model.y_thresholds_), 4).tolist(),
    }


def _band(label: np.ndarray, score: np.ndarray, false_alarms: float) -> list[float]:
    slope, intercept = logistic(label, score)
    high = _lowest(score[label == 0], false_alarms)
    even = float(expit(-intercept / slope)) if slope > 0 else high
    return [min(high, even), high]


def _of_other_images(
    label, score, groups, false_alarms: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image's ratios, logistic and isotonic, and its verdict, from fits that never
    saw its group."""
    by_logistic, by_isotonic = np.zeros(len(label)), np.zeros(len(label))
    said = np.empty(len(label), object)
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0)
    for fitted, other in folds.split(score, label, groups):
        if len(np.unique(label[fitted])) < 2:
            raise InputError("One source group holds a whole class: no fair folds.")
        slope, intercept = logistic(label[fitted], score[fitted])
        by_logistic[other] = slope * _logit(score[other]) + intercept
        # A fold's outermost steps hold one class alone and would claim certainty.
        edge = np.log(len(fitted))
        found = _isotonic(label[fitted], score[fitted], score[other])
        by_isotonic[other] = np.clip(found, -edge, edge)
        band = {"band": _band(label[fitted], score[fitted], false_alarms)}
        said[other] = [verdict(value, band) for value in score[other]]
    return by_logistic, by_isotonic, said


def _ece(label: np.ndarray, probability: np.ndarray) -> float:
    weights = np.ones((1, len(label)))
    return float(metrics.scores.calibration_error(label, probability, weights)[0])


def _threshold(label: np.ndarray, score: np.ndarray, rate: float) -> dict:
    """The lowest score that at most `rate` of the authentic images reach."""
    authentic, manipulated = score[label == 0], score[label == 1]
    at = _lowest(authentic, rate)
    rng = np.random.default_rng(0)
    drawn = [
        _lowest(rng.choice(authentic, len(authentic)), rate) for _ in range(_RESAMPLES)
    ]
    alarms, found = int((authentic >= at).sum()), int((manipulated >= at).sum())
    return {
        "score": at,
        "score_interval": np.quantile(drawn, (0.025, 0.975)).tolist(),
        "false_alarms": alarms / len(authentic),
        "false_alarms_interval": _exact(alarms, len(authentic)),
        "found": found / len(manipulated),
        "found_interval": _exact(found, len(manipulated)),
    }


def _lowest(authentic: np.ndarray, rate: float) -> float:
    ordered = np.sort(authentic)[::-1]
    allowed = int(np.floor(rate * len(ordered) + 1e-9))
    # Just above the first score that may not reach it.
    return float(min(1.0, np.nextafter(ordered[allowed], 2)))


def _exact(count: int, of: int) -> list[float]:
    """The 95 % interval of a share (Clopper and Pearson, 1934)."""
    low = beta.ppf(0.025, count, of - count + 1) if count else 0.0
    high = beta.ppf(0.975, count + 1, of - count) if count < of else 1.0
    return [float(low), float(high)]


def _shares(label: np.ndarray, said: np.ndarray) -> dict[str, dict[str, float]]:
    """Which share of each class gets which verdict."""
    return {
        name: {v: float((said[label == value] == v).mean()) for v in VERDICTS[::-1]}
        for name, value in (("manipulated", 1), ("authentic", 0))
        if (label == value).any()
    }


def draw(evaluation: Evaluation, found: dict, path: str | os.PathLike):
    """Tippett plot (shares of a class beyond each ratio) and the fits, as a PNG."""
    label, score = evaluation.label, evaluation.score
    slope, intercept = found["logistic"]["slope"], found["logistic"]["intercept"]
    ratios = (slope * _logit(score) + intercept) / np.log(10)
    figure = figures.chart(4.2)
    left, right = figure.subplots(1, 2)
    for value, name in enumerate(figures.CLASSES):
        ordered = np.sort(ratios[label == value])
        beyond = 1 - np.arange(len(ordered)) / len(ordered)
        left.step(ordered, beyond, color=figures.CLASS_COLORS[value], label=name)
    left.axvline(0, color=figures.FAINT, linewidth=1, linestyle=":")
    left.set(xlabel="log10 likelihood ratio", ylabel="share with a greater one")
    left.set_title("Tippett plot", loc="left")
    left.legend(frameon=False, fontsize=9)
    grid = np.linspace(0, 1, 401)
    said = (slope * _logit(grid) + intercept) / np.log(10)
    right.plot(grid, said, color=figures.COLORS[0], label="logistic")
    points = found["isotonic"]
    right.step(
        points["score"],
        np.array(points["ratio"]) / np.log(10),
        color=figures.COLORS[1],
        label="isotonic",
    )
    right.axvspan(*found["band"], color=figures.FAINT, alpha=0.15, label="inconclusive")
    right.set(
        xlabel="score", ylabel="log10 likelihood ratio", ylim=(-4, 4), xlim=(0, 1)
    )
    right.set_title("What a score says", loc="left")
    right.legend(frameon=False, fontsize=9)
    for axes in (left, right):
        figures.tidy(axes, "both")
    figures.save(figure, path)


def write(
    folder: str | os.PathLike,
    out: str | os.PathLike,
    false_alarms: float,
    test: str | os.PathLike | None = None,
) -> dict:
    """Calibrates the evaluation in `folder`; writes `out` and a chart beside it.

    With `test`, an evaluation of other images, it is `measured` on these as well.
    """
    out = Path(out)
    if out.suffix != ".json":
        raise InputError(f"--out={out}: a file that ends in .json is expected.")
    if not 0 < false_alarms < 0.5:
        raise InputError(
            f"--false_alarms={false_alarms}: between 0 and 0.5 is expected."
        )
    evaluation = Evaluation.load(folder)
    found = calibrate(evaluation, false_alarms=false_alarms)
    network = _network(folder)
    found["network"] = network
    if test is not None:
        if _network(test) != network:
            raise InputError(f"--test={test}: scores of other weights than {folder}'s.")
        found["test"] = measured(Evaluation.load(test), found)
        if found["test"]["same_images"]:
            raise InputError(f"--test={test}: the very images of {folder}.")
    draw(evaluation, found, out.with_suffix(".png"))
    write_json(out, found)
    return found


def _network(folder: str | os.PathLike) -> dict:
    """Whose scores these are: `weights_sha256` and `step`, where that was noted."""
    setting = facts.read_scores(folder).get("setting") or {}
    return {key: setting.get(key) for key in ("weights_sha256", "step")}


def lines(found: dict) -> Sequence[str]:
    """The result in words, a line each."""
    cost, ece = found["cllr"], found["ece"]
    low, high = found["band"]
    said = [
        "Cllr {before:.3f} before, {logistic:.3f} after (logistic), {isotonic:.3f} "
        "(isotonic); {minimum:.3f} at best.".format(**cost),
        "Calibration error {before:.3f} before, {logistic:.3f} after (logistic), "
        "{isotonic:.3f} (isotonic).".format(**ece),
    ]
    for rate, t in found["thresholds"].items():
        low_rate, high_rate = t["false_alarms_interval"]
        said.append(
            f"At most {float(rate):.0%} false alarms: score {t['score']:.4f}; of the "
            f"authentic images {t['false_alarms']:.1%} ({low_rate:.1%} to "
            f"{high_rate:.1%}) reach it, of the manipulated ones {t['found']:.1%}."
        )
    said.append(f"Inconclusive from {low:.4f} up to {high:.4f}.")
    alarms = found["false_alarms_interval"]
    said.append(
        f"On images kept out of the fit {found['false_alarms']:.1%} ({alarms[0]:.1%} "
        f"to {alarms[1]:.1%}) of the authentic ones are called manipulated."
    )
    return said + list(words(found["test"])) if "test" in found else said


def words(found: Mapping) -> Sequence[str]:
    """What `measured` found, a line each."""
    said = []
    for name, text in (
        ("false_alarms", "of the authentic images {:.1%} ({:.1%} to {:.1%})"),
        ("found", "of the manipulated ones {:.1%} ({:.1%} to {:.1%})"),
    ):
        if name in found:
            said.append(text.format(found[name], *found[f"{name}_interval"]))
    lines = [f"Called manipulated, at {found['band'][1]:.4g}: {', '.join(said)}."]
    if "cllr" in found:
        lines.append(
            "Likelihood ratios: Cllr {cllr:.3f} ({cllr_minimum:.3f} at best), "
            "calibration error {ece:.3f}.".format(**found)
        )
    return lines
