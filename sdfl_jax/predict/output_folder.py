"""Writes masks and overlays of images and videos as they are predicted."""

import dataclasses
import functools
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence

from tqdm import tqdm

from sdfl_jax import metrics, stores
from sdfl_jax.data import batches, images, search, videos
from sdfl_jax.data.workers import Engine, Workers
from sdfl_jax.errors import InputError
from sdfl_jax.predict import timeline
from sdfl_jax.predict.answer import Answer, Answering

FRAMES = 16  # of a video in a batch, at most

_PHOTOS = 64  # of a task of an engine
_SECONDS = 3600  # that it may take behind the last file that it read


def predict(
    load: Callable[[], Answering],
    out: str,
    files: Sequence[str],
    *,
    batch_size: int = 8,
    workers: Workers = 0,
    every_frames: int = 1,
    every_seconds: float = 0,
) -> Iterator[dict]:
    """Writes `OUT/masks/NAME.png` and `OUT/overlays/NAME.png` at each image's size.

    `load` gives the network, once there is something to show it. An engine calls it on
    its machines (so it must pickle), and sees the same paths there.

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
    out = stores.path(out)
    endings = search.SUFFIXES + videos.SUFFIXES
    found = search.find(files, endings, skip=_kept(out), in_stores=True)
    if len({stores.is_address(path) for path in found}) > 1:
        raise InputError("Give files of the disk or of a store, not of both.")
    photos = [path for path in found if not videos.is_video(path)]
    films = [path for path in found if videos.is_video(path)]
    root = os.path.commonpath({path.absolute().parent for path in found})
    sampling = {"every_frames": every_frames, "every_seconds": every_seconds}
    elsewhere = isinstance(workers, Engine)
    predictor = None if elsewhere else load()
    for folder in _kept(out)[: 3 if films else 2]:
        search.mark_output(folder)
    bar = tqdm(unit="image", dynamic_ncols=True, file=sys.stderr)
    if elsewhere:
        part = _Part(load, out, root, batch_size, sampling)
        tasks = [
            (photos[start : start + _PHOTOS],)
            for start in range(0, len(photos), _PHOTOS)
        ]
        tasks += [([film],) for film in films]
        how = {"attempt": part.attempt, "bar": bar, "seconds": _SECONDS}
        for _, lines in workers.work(part, tasks, **how):
            yield from lines
        bar.close()
        return
    if photos:
        bar.total = len(photos) if not films else None
        answers = predictor.of_files(
            photos, root=root, batch_size=batch_size, workers=workers
        )
        try:
            for answer in answers:
                bar.update()
                yield _line(out, answer)
        except batches.NothingRead as nothing:
            if not films:
                raise
            for unread in nothing.examples:
                bar.update()
                yield _line(out, unread)
    for path in films:
        for line in _film(predictor, out, path, root, sampling, batch_size):
            bar.update()
            yield line
    bar.close()


@dataclasses.dataclass(frozen=True)
class _Part:
    """The lines of some photographs, or of one film, as an engine asks for them."""

    load: Callable[[], Answering]
    out: stores.AnyPath
    root: str
    batch_size: int
    sampling: dict

    def __call__(
        self,
        paths: Sequence[stores.AnyPath],
        begin: Callable[[int], None],
        rejected: dict[int, str],
    ) -> list[dict]:
        predictor = _loaded(pickle.dumps(self.load))
        if videos.is_video(paths[0]):
            begin(0)
            if rejected:
                return [_line(self.out, _unread(paths[0], self.root, rejected[0]))]
            given = (self.root, self.sampling, self.batch_size)
            return list(_film(predictor, self.out, paths[0], *given))
        source = batches.FileSource(paths, self.root, predictor.inputs)

        def read(index: int) -> dict:
            begin(index)  # here, one after the other, so that a crash is its own
            if index in rejected:
                return _unread(paths[index], self.root, rejected[index])
            return source[index]

        examples = map(read, range(len(paths)))
        rows = min(self.batch_size, len(paths))
        try:
            answers = predictor.of_examples(examples, batch_size=rows)
            return [_line(self.out, answer) for answer in answers]
        except batches.NothingRead as nothing:
            return [_line(self.out, unread) for unread in nothing.examples]

    def attempt(self, paths: Sequence[stores.AnyPath], index: int):
        """Reads a file as a part does, to see whether the process survives."""
        if videos.is_video(paths[index]):
            with stores.local(paths[index]) as local:
                for _ in videos.frames(local, **self.sampling):
                    pass
        else:
            batches.FileSource(paths, self.root)[index]


@functools.lru_cache(maxsize=1)
def _loaded(load: bytes) -> Answering:
    """The network of a process, which does one part after the other."""
    return pickle.loads(load)()


def _unread(path: stores.AnyPath, root: str, reason: str) -> dict:
    return {"name": _name(path, root), "error": f"{path}: {reason}."}


def _name(path: stores.AnyPath, root: str) -> str:
    return os.path.relpath(path.absolute(), root).replace(os.sep, "/")


def _kept(out: stores.AnyPath) -> list[stores.AnyPath]:
    """The folders of an output, where nothing is to be predicted."""
    return [out / name for name in ("masks", "overlays", "timelines", "confidence")]


def _film(
    predictor,
    out: stores.AnyPath,
    path: stores.AnyPath,
    root: str,
    sampling: dict,
    batch_size: int,
):
    """The lines of one video: its frames, then itself; an error line if it is cut."""
    name = _name(path, root)
    frames, broken = {}, []

    def stream():
        try:
            with stores.local(path) as local:
                for frame in videos.frames(local, **sampling):
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


def _line(out: stores.AnyPath, answer: Answer | dict) -> dict:
    """What is told of a photograph, whose mask and overlay are written."""
    if isinstance(answer, dict):
        return {"image": answer["name"], "error": answer["error"]}
    name = images.png_name(answer.name)
    return {"image": answer.name} | _written(out, name, answer)


def _written(out: stores.AnyPath, name: str, answer: Answer) -> dict:
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
