"""Marks manipulated pixels in images: masks, overlays and scores.

python -m sdfl_jax.predict --workdir=DIR --out=DIR FILE|FOLDER...
"""

import argparse
import json
import sys
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from sdfl_jax import checkpoint, report, sharding
from sdfl_jax.data import images, pipeline
from sdfl_jax.errors import InputError, one_line
from sdfl_jax.steps import make_evaluate_step


@one_line
def main(argv=None):
    """Reads the command line; one JSON line per image goes to standard output."""
    args = _arguments().parse_args(argv)
    failed = 0
    for line in predict(
        args.workdir,
        args.out,
        args.files,
        checkpoint_name=args.checkpoint,
        batch_size=args.batch_size,
        workers=args.workers,
    ):
        if "error" in line:
            failed += 1
            tqdm.write(f"Error: {line['error']}", file=sys.stderr)
        else:
            tqdm.write(json.dumps(line), file=sys.stdout)
            sys.stdout.flush()
    if failed:
        print(f"{failed} of the files could not be read.", file=sys.stderr)
        sys.exit(1)


def predict(
    workdir: str,
    out: str,
    files: list[str],
    *,
    checkpoint_name: str = "best",
    batch_size: int = 8,
    workers: int = 0,
):
    """Writes `OUT/masks/NAME.png` and `OUT/overlays/NAME.png` at each image's size.

    Yields:
      A dict per image, in no fixed order: `image`, `score` in [0, 1], `manipulated`
      (the score is above the threshold that was best on the validation data),
      `manipulated_area` (share of pixels above theirs), `mask`, `overlay`. For a file
      that cannot be read `image` and `error`, one line.

    Raises:
      InputError: no such file, no image among them, no checkpoint.
    """
    source = pipeline.FileSource(images_in(files))
    trained = checkpoint.load(workdir, checkpoint_name)
    mesh = sharding.data_mesh()
    evaluate_step = make_evaluate_step(trained.model, mesh)
    variables = jax.device_put(trained.variables, sharding.everywhere(mesh))
    pixel_threshold = trained.progress.get("pixel_threshold") or 0.5
    image_threshold = trained.progress.get("image_threshold") or 0.5

    batches = pipeline.eval_batches(
        source,
        batch_size=sharding.fitting_batch_size(min(batch_size, len(source)), mesh),
        image_size=trained.config.image_size,
        geometry=trained.config.data.geometry,
        workers=workers,
        keep_images=True,
    )
    assembler = pipeline.Assembler()
    out = Path(out)
    bar = tqdm(total=len(source), unit="image", dynamic_ncols=True, file=sys.stderr)
    for batch in batches:
        for error in batch.errors:
            bar.update()
            yield {"image": error["name"], "error": error["error"]}
        if not batch.tiles:
            continue
        arrays = sharding.to_global({"image": batch.arrays["image"]}, mesh)
        outputs = evaluate_step(variables, arrays)
        done = assembler.add(
            batch, np.asarray(outputs["mask_probs"]), np.asarray(outputs["score"])
        )
        for example, mask_probs, score in done:
            name = images.png_name(example["name"])
            mask, overlay = out / "masks" / name, out / "overlays" / name
            images.write_png(mask, np.round(255 * mask_probs).astype(np.uint8))
            images.write_png(overlay, report.overlay(example["image"], mask_probs))
            bar.update()
            yield {
                "image": example["name"],
                "score": round(float(score), 4),
                "manipulated": bool(score > image_threshold),
                "manipulated_area": round(
                    float(np.mean(mask_probs > pixel_threshold)), 4
                ),
                "mask": str(mask),
                "overlay": str(overlay),
            }
    bar.close()


def images_in(paths: list[str]) -> list[Path]:
    """The files among `paths`, and the images anywhere below its folders."""
    found = []
    for path in map(Path, paths):
        if path.is_dir():
            below = [p for p in path.rglob("*") if p.suffix.lower() in images.SUFFIXES]
            if not below:
                raise InputError(
                    f"{path}: no image in it ({', '.join(images.SUFFIXES)})."
                )
            found += sorted(below)
        elif path.exists():
            found.append(path)
        else:
            raise InputError(f"{path}: no such file or folder.")
    return found


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sdfl_jax.predict", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--workdir", required=True, help="folder of a training run")
    parser.add_argument("--out", required=True, help="folder for masks and overlays")
    parser.add_argument("files", nargs="+", help="images, folders of images")
    parser.add_argument("--checkpoint", default="best", help="best, latest or a step")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=0, help="processes that decode")
    return parser


if __name__ == "__main__":
    main()
