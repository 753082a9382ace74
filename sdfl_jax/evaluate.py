"""Scores a trained network: a checkpoint in, a report out.

python -m sdfl_jax.evaluate --workdir=DIR --data=SHARDS --out=DIR
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from sdfl_jax import __version__, checkpoint, report, sharding
from sdfl_jax.data import images, pipeline
from sdfl_jax.data.records import RecordSource, load_manifest
from sdfl_jax.errors import InputError, one_line
from sdfl_jax.evaluators import Evaluation, LocalizationEvaluator
from sdfl_jax.files import new_folder, write_csv, write_json
from sdfl_jax.steps import make_evaluate_step

SHOWN_IMAGES = 12


@one_line
def main(argv=None):
    """Reads the command line, writes the report, prints its table."""
    args = _arguments().parse_args(argv)
    if not 0 < args.threshold < 1:
        raise InputError(f"--threshold={args.threshold}: must lie between 0 and 1.")
    print(evaluate(**vars(args)))
    print(f"\nReport: {args.out}; pictures: {Path(args.out) / 'pictures.png'}")


def evaluate(
    workdir: str,
    data: str,
    out: str,
    *,
    checkpoint_name: str = "best",
    threshold: float = 0.5,
    batch_size: int = 8,
    workers: int = 0,
    subsets: Sequence[str] = (),
) -> str:
    """Scores the examples of `data` at each image's own resolution.

    Writes `metrics.json`, `per_image.csv`, `masks/`, `report.md`, `roc.png` and
    `pictures.png` to `out`, all or nothing. `subsets` names unions of kinds, such as
    "splice+inpainting", that are scored on their own beside each single kind.

    Returns:
      The table of scores, Markdown.

    Raises:
      InputError: no checkpoint or shards there, or an `out` that holds other files.
    """
    trained = checkpoint.load(workdir, checkpoint_name)
    config = trained.config
    manifest = load_manifest(data)
    mesh = sharding.data_mesh()
    source = RecordSource(data)
    evaluator = LocalizationEvaluator(
        make_evaluate_step(
            trained.model,
            mesh,
            weights=config.loss_weights.to_dict(),
            mask_losses=tuple(config.mask_losses),
            dice=config.dice,
        ),
        lambda: pipeline.eval_batches(
            source,
            batch_size=sharding.fitting_batch_size(batch_size, mesh),
            image_size=config.image_size,
            geometry=config.data.geometry,
            workers=workers,
            keep_images=True,
        ),
        threshold=threshold,
    )

    with new_folder(out, made_by="metrics.json") as folder:
        bar = tqdm(total=manifest["examples"], unit="image", dynamic_ncols=True)
        pictures = _Pictures(manifest, SHOWN_IMAGES)

        def on_example(example, mask_probs):
            images.write_png(
                folder / "masks" / images.png_name(example["name"]),
                np.round(255 * mask_probs).astype(np.uint8),
            )
            pictures.offer(example, mask_probs)
            bar.update()

        variables = jax.device_put(trained.variables, sharding.everywhere(mesh))
        result = evaluator.run(variables, on_example=on_example)
        bar.close()

        if len(result.rows) != manifest["examples"]:
            raise RuntimeError(
                f"{len(result.rows)} of {manifest['examples']} examples were scored."
            )
        scores = {
            **result.figures,
            "loss": result.loss,
            "validation_threshold": _at_validation_threshold(result, trained.progress),
            "kinds": result.by_kind(),
            "subsets": {name: _subset(result, name) for name in subsets},
            "baselines": result.baselines(),
        }
        setting = {
            "data": Path(data).name,
            "examples": manifest["examples"],
            "step": trained.step,
            "threshold": threshold,
            "version": __version__,
            "config": config.to_dict(),
        }
        write_json(folder / "metrics.json", scores | {"setting": setting})
        write_csv(folder / "per_image.csv", result.rows, list(result.rows[0]))
        table = report.score_table(scores)
        (folder / "report.md").write_text(table + "\n")
        report.roc_plot(result.label, result.score, folder / "roc.png")
        report.picture_sheet(
            pictures.rows,
            folder / "pictures.png",
            title=f"{setting['data']}: {len(result.rows)} images, every n-th of them",
        )
    return table


def _at_validation_threshold(result: Evaluation, progress: dict) -> dict | None:
    """The figures at the thresholds that were best on the validation data."""
    pixel, image = progress.get("pixel_threshold"), progress.get("image_threshold")
    if pixel is None:
        return None
    figures = result.at_threshold(pixel, image)
    return {"threshold": pixel, "image_threshold": image, **figures}


def _subset(result: Evaluation, name: str) -> dict:
    """Standard figures of a union of kinds and its baselines; all authentic images."""
    part = result.of_kinds(name.split("+"))
    return {
        "manipulated": int(np.count_nonzero(part.label)),
        "standard": part.figures["standard"],
        "baselines": part.baselines(),
    }


class _Pictures:
    """Every n-th example, for a sheet that shows all parts of the data."""

    def __init__(self, manifest: dict, count: int):
        self._every = max(1, manifest["examples"] // count)
        self._count = count
        self._seen = 0
        self.rows = []

    def offer(self, example, mask_probs):
        if self._seen % self._every == 0 and len(self.rows) < self._count:
            self.rows.append(
                {
                    "image": example["image"],
                    "mask": example["original_mask"],
                    "mask_probs": mask_probs,
                    "name": example["name"],
                    "kind": example["kind"],
                    "label": example["label"],
                    "has_mask": example["has_mask"],
                }
            )
        self._seen += 1


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sdfl_jax.evaluate", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--workdir", required=True, help="folder of a training run")
    parser.add_argument("--data", required=True, help="folder of shards")
    parser.add_argument("--out", required=True, help="folder for the report")
    parser.add_argument(
        "--checkpoint",
        dest="checkpoint_name",
        default="best",
        help="best, latest or a step",
    )
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="of mask and score"
    )
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=0, help="processes that decode")
    parser.add_argument(
        "--subsets",
        type=lambda text: text.split(","),
        default=(),
        help="unions of kinds to score on their own: splice+inpainting,...",
    )
    return parser


if __name__ == "__main__":
    main()
