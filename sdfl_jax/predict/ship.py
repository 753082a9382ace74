r"""Packs a run's network to ship: float16 weights, calibrated on images kept aside.

python -m sdfl_jax.predict.ship --workdir=RUN --out=DIR --lists=FILE[,FILE...]
    [--checkpoint=latest] [--alarms=0.02] [--missed=0.1]

The lists (see `data.lists`; masks lie beside them) hold manipulated images and
authentic ones, whole photographs among them, that the run was not trained on. Two
biases of a `starter` network are moved so that 0.5 means something: the mask head's, so
that a threshold of 0.5 gives the best mean pixel F1 over the manipulated images, and
the label head's, so that --alarms of the authentic ones score 0.5 or more, which is
"manipulated", among those that are looked at once and among those looked at twice
(`config.data.enlarge_bias`). A score that is lower than those of all but --missed of
the manipulated ones is "no manipulation found"; between the two lies "inconclusive".
"""

import argparse
import os
import re
from pathlib import Path

import jax
import ml_collections as mlc
import numpy as np
from scipy.special import expit, logit

from sdfl_jax.checkpoints import card, checkpoint, shipped
from sdfl_jax.data import tiling
from sdfl_jax.data.eval_sources import ListSource
from sdfl_jax.errors import InputError, one_line
from sdfl_jax.files import replacing
from sdfl_jax.predict.predictor import Predictor
from sdfl_jax.report import likelihood_ratios

_THRESHOLDS = np.arange(0.05, 0.96, 0.025)
# Of an absolute path, at the start or as one of several; no pattern of parameters.
_FOLDERS = re.compile(r"(?<![^,:=\s])/(?=[^\s/])(?:[^/,:\s]+/)*")


def ship(
    workdir: str,
    out: str,
    lists: list[str],
    *,
    checkpoint_name: str = "latest",
    alarms: float = 0.02,
    missed: float = 0.1,
) -> dict:
    """Writes the folder that `shipped.read` reads; returns what calibration found.

    `InputError` for a network that is no `starter`, and lists without both classes.
    """
    trained = checkpoint.load(workdir, checkpoint_name)
    if trained.config.model.name != "starter":
        raise InputError(
            f"{workdir}: a {trained.config.model.name}; only the biases of a 'starter' "
            "are known here."
        )
    predictor = Predictor(workdir, checkpoint_name)
    f1, scores, labels, twice = _measure(predictor, lists)
    if not f1 or labels.all():
        raise InputError("The lists need manipulated images and authentic ones.")
    mean_f1 = np.mean(f1, axis=0)
    best = float(_THRESHOLDS[np.argmax(mean_f1)])
    bias = _bias(scores[labels == 0], twice[labels == 0], alarms)
    scores = np.where(twice, expit(_bounded_logit(scores) + bias), scores)
    high = float(np.quantile(scores[labels == 0], 1 - alarms))
    low = float(np.quantile(scores[labels == 1], missed))
    variables = jax.tree.map(np.asarray, trained.variables)
    params = variables["params"]
    shift = -float(_bounded_logit(best))
    params["mask_head"]["bias"] = params["mask_head"]["bias"] + shift
    # The label head reads the mask's logits in its last inputs; they moved, it did not.
    head = params["label_head"]["out"]
    evidence = len(head["kernel"]) - params["label_head"]["pooled"]["kernel"].shape[1]
    moved = shift * head["kernel"][-evidence:].sum()
    head["bias"] = head["bias"] - moved - float(_bounded_logit(high))
    lower = min(0.5, float(expit(_bounded_logit(low) - _bounded_logit(high))))
    shifted = expit(_bounded_logit(scores) - _bounded_logit(high))
    told = _ratios(labels, shifted) | {
        "band": [lower, 0.5],
        "pixel_threshold_before": best,
        "pixel_f1_before": float(mean_f1[np.argmin(np.abs(_THRESHOLDS - 0.5))]),
        "pixel_f1": float(mean_f1.max()),
        "score_threshold_before": high,
        "bias_of_second_look": bias,
        "authentic": int(np.sum(labels == 0)),
        "manipulated": int(np.sum(labels == 1)),
        "called_manipulated": {
            "authentic": float(np.mean(scores[labels == 0] > high)),
            "manipulated": float(np.mean(scores[labels == 1] > high)),
        },
    }
    step = int(trained.step)
    packed = {
        "step": step,
        "pixel_threshold": 0.5,
        "image_threshold": 0.5,
        "examples_seen": step * trained.config.batch_size,
        "card": (trained.progress.get("card") or {}) | {"calibration": told},
    }
    config = mlc.ConfigDict(_without_folders(trained.config.to_dict()))
    config.data.enlarge_bias = predictor.settings["again"].bias + bias
    packed = _without_folders(packed)
    shipped.write(out, config, variables, packed)
    if "config" in packed["card"]:  # of a run
        text = card.markdown(packed["card"]) + "\n## Calibration\n\n"
        text += "".join(f"- {name}: {value}\n" for name, value in told.items())
        with replacing(Path(out) / card.FILE) as beside:
            beside.write_text(text, encoding="utf-8")
    return packed


def _ratios(labels: np.ndarray, scores: np.ndarray) -> dict:
    """What likelihood ratios need, where there are images enough to know them."""
    counts = {"manipulated": int(labels.sum()), "authentic": int((labels == 0).sum())}
    if min(counts.values()) < likelihood_ratios.LEAST:
        return {}
    slope, intercept = likelihood_ratios.logistic(labels, scores)
    if slope <= 0:
        return {}
    return {"logistic": {"slope": slope, "intercept": intercept}, "images": counts}


def _without_folders(value):
    """The same with files and folders by their last names: where they lay tells
    nobody anything."""
    if isinstance(value, dict):
        return {_without_folders(k): _without_folders(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(item) for item in value]
    return _FOLDERS.sub("", value) if isinstance(value, str) else value


def _measure(predictor: Predictor, lists: list[str]):
    """Pixel F1 at each threshold, of each manipulated image; scores, labels, and which
    images were looked at twice."""
    f1, scores, labels, twice = [], [], [], []
    again = predictor.settings["again"]
    for path in lists:
        source = ListSource(path, root=os.path.dirname(os.path.abspath(path)))
        for example, mask_probs, score in predictor.of_source(source):
            scores.append(score)
            labels.append(example["label"])
            size = (example["height"], example["width"])
            twice.append(again.size(size, tiling.MAX_SIDE) is not None)
            if example["label"]:
                mask = example["original_mask"] >= 128
                f1.append([_f1(mask_probs >= level, mask) for level in _THRESHOLDS])
    return f1, np.array(scores), np.array(labels), np.array(twice, bool)


def _bias(scores: np.ndarray, twice: np.ndarray, alarms: float) -> float:
    """What makes the second look's alarms start where those of a single look do.

    Of authentic images; nothing where there are too few of either to tell.
    """
    if alarms * min(twice.sum(), (~twice).sum()) < 1:
        return 0.0
    logits = _bounded_logit(scores)
    starts = [np.quantile(logits[part], 1 - alarms) for part in (~twice, twice)]
    return float(starts[0] - starts[1])


def _f1(called, mask) -> float:
    return float(2 * np.sum(called & mask) / max(np.sum(called) + np.sum(mask), 1))


def _bounded_logit(p):
    return logit(np.clip(p, 1e-6, 1 - 1e-6))


@one_line
def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m sdfl_jax.predict.ship", description=__doc__.split("\n\n")[0]
    )
    add = parser.add_argument
    add("--workdir", required=True, help="folder of a training run")
    add("--out", required=True, help="folder to write")
    add("--lists", required=True, help="FILE[,FILE...] of images kept aside")
    add("--checkpoint", default="latest", help="best, latest or a step")
    add("--alarms", type=float, default=0.02, help="share of authentic images")
    add("--missed", type=float, default=0.1, help="share of manipulated images")
    args = parser.parse_args(argv)
    for name in ("alarms", "missed"):
        if not 0 < getattr(args, name) < 1:
            raise InputError(f"--{name}={getattr(args, name)}: between 0 and 1.")
    told = ship(
        args.workdir,
        args.out,
        args.lists.split(","),
        checkpoint_name=args.checkpoint,
        alarms=args.alarms,
        missed=args.missed,
    )
    print(f"{args.out}: step {told['step']}; {told['card']['calibration']}")


if __name__ == "__main__":
    main()
