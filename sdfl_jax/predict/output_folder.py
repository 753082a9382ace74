"""Writes masks and overlays of images and videos as they are predicted."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from sdfl_jax import metrics
from sdfl_jax.data import batches, images, search, videos
from sdfl_jax.errors import InputError
from sdfl_jax.predict import timeline
from sdfl_jax.predict.answer import Answer, Answering

FRAMES = 16  # of a video in a batch, at most


def predict(
    load: Callable[[], Answering],
    out: str,
    files: Sequence[str],
    *,
    batch_size: int = 8,
    workers: int = 0,
    every_frames: int = 1,
    every_seconds: float = 0,
) -> Iterator[dict]:
    """Writes `OUT/masks/NAME.png` and `OUT/overlays/NAME.png` at each image's size.

    `load` gives the network, once there is something to show it.

    Of a network that says how far its mask is to be believed also
    `OUT/confidence/NAME.png`. Folders are searched for images and videos. Those of a
    video's frames lie in `masks/VIDEO/frame_000123.png` and so on, and
    `OUT/timelines/VIDEO.csv` and `.png` hold its scores over time. `every_frames` and
    `every_seconds` leave frames out.

    Yields:
      A dict per image: `image`, `score` in [0, 1], `log10_likelihood_ratio`
      (None where the network was not calibrated so), `manipulated` (the score reaches
      the calibration's threshold, or what was best on the validation data), `verdict`
      (one of `metrics.calibration.VERDICTS`), `classes` (the probability of each),
      `manipulated_area` (share of pixels that reach theirs), `mask_source` ("network",
      or what stands in where a network gives none), `mask`, `overlay`; perhaps
      `confidence` and `mean_confidence`. One per frame, with `video`, `frame` and
      `seconds`, and one for the video behind them (`timeline.summary`). For a file that
      cannot be read, that breaks off or gets an answer that is no number, `image` and
      `error`, one line.

    Raises:
      InputError: no such file, no image among them, none that can be read, no
        checkpoint.
    """
    out = Path(out).expanduser()
    found = search.find(files, search.SUFFIXES + videos.SUFFIXES, skip=_kept(out))
    photos = [path for path in found if not videos.is_video(path)]
    films = [path for path in found if videos.is_video(path)]
    root = os.path.commonpath({path.absolute().parent for path in found})
    predictor = load()
    for folder in _kept(out)[: 3 if films else 2]:
        search.mark_output(folder)
    bar = tqdm(unit="image", dynamic_ncols=True, file=sys.stderr)
    if photos:
        bar.total = len(photos) if not films else None
        answers = predictor.of_files(
            photos, root=root, batch_size=batch_size, workers=workers
        )
        try:
            for answer in answers:
                bar.update()
                if isinstance(answer, dict):
                    yield {"image": answer["name"], "error": answer["error"]}
                else:
                    name = images.png_name(answer.name)
                    yield {"image": answer.name} | _written(out, name, answer)
        except batches.NothingRead as nothing:
            if not films:
                raise
            for unread in nothing.examples:
                bar.update()
                yield {"image": unread["name"], "error": unread["error"]}
    for path in films:
        name = os.path.relpath(path.absolute(), root).replace(os.sep, "/")
        sampling = {"every_frames": every_frames, "every_seconds": every_seconds}
        for line in _film(predictor, out, path, name, sampling, batch_size):
            bar.update()
            yield line
    bar.close()


def _kept(out: Path) -> list[Path]:
    """The folders of an output, where nothing is to be predicted."""
    return [out / name for name in ("masks", "overlays", "timelines", "confidence")]


def _film(predictor, out: Path, path: Path, name: str, sampling: dict, batch_size: int):
    """The lines of one video: its frames, then itself; an error line if it is cut."""
    frames, broken = {}, []

    def stream():
        try:
            for frame in videos.frames(path, **sampling):
                key = f"{name}/frame_{frame.number:06d}"
                frames[key] = {"frame": frame.number, "seconds": frame.seconds}
                yield key, frame.image
        except InputError as error:
            broken.append(str(error))

    rows = []
    for answer in predictor.of_images(stream(), batch_size=min(batch_size, FRAMES)):
        if isinstance(answer, dict):
            broken.append(answer["error"])
            continue
        place = frames.pop(answer.name)
        place["seconds"] = round(place["seconds"], 3)
        line = {"image": answer.name, "video": name, **place}
        rows.append(line | _written(out, f"{answer.name}.png", answer))
        yield rows[-1]
    if rows:
        yield timeline.write(out / "timelines", name, rows, predictor.image_threshold)
    for error in broken:
        yield {"image": name, "error": error}


def _written(out: Path, name: str, answer: Answer) -> dict:
    """The numbers of an image and the paths of its mask and overlay."""
    mask, overlay = out / "masks" / name, out / "overlays" / name
    images.write_map(mask, answer.grey)
    images.write_png(overlay, answer.overlay, level=1)  # a third of the default's time
    written = {"mask": str(mask), "overlay": str(overlay)}
    if answer.confidence is not None:
        path = out / "confidence" / name
        search.mark_output(out / "confidence")
        images.write_map(path, metrics.to_uint8(answer.confidence))
        written["confidence"] = str(path)
    return answer.summary() | written
