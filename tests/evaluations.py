"""Output folders of an evaluation, made of random maps."""

from pathlib import Path

import numpy as np

from sdfl_jax import metrics
from sdfl_jax.evaluators import Evaluation
from sdfl_jax.files import write_csv, write_json

SIDE = 16


def evaluation(
    sets=("data",), count=12, seed=0, labels=(0, 1), has_mask=True, scale=1.0
) -> Evaluation:
    """`count` images of each set, of labels in turn; maps find half of each square."""
    rng = np.random.default_rng(seed)
    known, tables, inner, centres, label, score = [], [], [], [], [], []
    for name in sets:
        for i in range(count):
            label.append(labels[i % len(labels)])
            mask = np.zeros((SIDE, SIDE), np.uint8)
            mask[:, : 1 + i % 10] = 255 * label[-1]
            probs = rng.uniform(0, 0.6, (SIDE, SIDE)) + 0.4 * (mask > 0)
            tables.append(metrics.histogram(mask, probs))
            inner.append(metrics.inner_histogram(mask, probs))
            prior = metrics.centre_prior(SIDE, SIDE)
            centres.append(metrics.histogram(mask, prior))
            score.append(float(np.clip(0.3 * label[-1] + rng.uniform(0, 0.7), 0, 1)))
            kind = ("splice", "copymove")[i % 4 // 2] if label[-1] else ""
            known.append(
                {"name": f"{i}.png", "source": name, "group": f"{name}{i}"}
                | {"kind": kind, "height": SIDE, "width": SIDE}
                | {"set": name, "index": i}
            )
    return Evaluation(
        known=known,
        histograms=np.stack(tables),
        inner_histograms=np.stack(inner),
        centre_histograms=np.stack(centres),
        label=np.array(label),
        score=scale * np.array(score),
        has_mask=np.full(len(label), has_mask),
        loss={"loss": 0.5},
        calibrated=(0.45, 0.4),
        loss_rows=len(label),
    )


def write(
    folder: Path,
    *,
    network: dict | None = None,
    train: str = "shards/casia2/train",
    resamples: int = 20,
    extra: dict | None = None,
    **settings,
) -> Path:
    """`folder` as `evaluate` leaves it, without masks; `settings` of `evaluation`."""
    result = evaluation(**settings)
    folder.mkdir(parents=True, exist_ok=True)
    result.save(folder)
    setting = {
        "version": "0",
        "checkpoint": "best",
        "step": 3,
        "threshold": result.threshold,
        "scoring": "original",
        "empty_mask": "one",
        "config": {
            "model": network or {"name": "sdfl"},
            "data": {"train": train},
        },
    }
    data = [
        {"name": name, "path": f"/{name}", "examples": 12, "manifest_sha256": "0" * 64}
        for name in result.set_names
    ]
    scores = result.scores(resamples=resamples)
    write_json(
        folder / "metrics.json",
        {"setting": setting, "data": data, **scores} | (extra or {}),
    )
    write_csv(folder / "per_image.csv", result.rows, list(result.rows[0]))
    return folder
