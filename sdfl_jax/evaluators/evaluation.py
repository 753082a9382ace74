"""What is left of a data set after a network has seen it, and its metrics."""

import collections
import dataclasses
import functools
import json
import os
import re
import zipfile
from collections.abc import Collection, Hashable, Iterable, Sequence
from pathlib import Path

import numpy as np

from sdfl_jax import metrics
from sdfl_jax.errors import InputError
from sdfl_jax.files import replacing

# What is known of an example beside its pixels, in the order of `per_image.csv`.
KNOWN = ("name", "source", "group", "kind", "height", "width", "set", "index")
KNOWN += ("confidence",)  # the mean of its map, of networks that have one

# Shares of the image that is manipulated, from and below.
AREAS = {
    "<1 %": (0.0, 0.01),
    "1-5 %": (0.01, 0.05),
    "5-20 %": (0.05, 0.2),
    ">20 %": (0.2, np.inf),
}

_ARRAYS = ("histograms", "inner_histograms", "centre_histograms")
_ARRAYS += ("label", "score", "has_mask")
_FILE = "evaluation.npz"
_FRAME_NUMBER = re.compile(r"[_\-. ]*\d+$")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """All that is known of N examples after a network has seen them.

    Pixels are kept as histograms (`metrics.histogram`), 3 kB an image, from which
    every metric at every threshold follows. Metrics are worked out when asked for.
    """

    known: list[dict]  # of each example: `KNOWN`
    histograms: np.ndarray  # int32 (N 3 256)
    inner_histograms: np.ndarray  # int32 (N 2 256), `metrics.inner_histogram`
    centre_histograms: np.ndarray  # likewise, of the centre prior on the same masks
    label: np.ndarray  # int (N,)
    score: np.ndarray  # float (N,)
    has_mask: np.ndarray  # bool (N,)
    loss: dict[str, float]  # means over rows of batches: images, or their tiles
    threshold: float = 0.5  # of maps and scores
    # The validation data's, of maps and of scores; None where they have no such.
    calibrated: tuple[float | None, float | None] | None = None
    empty_mask: str = "one"  # `metrics.EMPTY_MASK`
    permute: bool = False
    loss_rows: int = 0  # that `loss` averages over

    @classmethod
    def of_nothing(cls, threshold: float = 0.5) -> "Evaluation":
        """No examples: what a process found that had none to score."""
        none = np.zeros(0, np.int64)
        tables = np.zeros((0, 3, metrics.BINS), np.int32)
        inner = tables[:, :2]
        return cls([], tables, inner, tables, none, none + 0.0, none > 0, {}, threshold)

    # On disk

    def save(self, folder: str | os.PathLike):
        """Writes `evaluation.npz`, from which every metric can be worked out again."""
        rest = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in _ARRAYS
        }
        # JSON escapes what a file name may hold and UTF-8 may not.
        text = np.frombuffer(json.dumps(rest).encode(), np.uint8)
        with replacing(Path(folder) / _FILE) as beside, beside.open("wb") as file:
            arrays = {name: getattr(self, name) for name in _ARRAYS}
            np.savez_compressed(file, **arrays, rest=text)

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "Evaluation":
        """Reads what `save` wrote; `InputError` where it is not there or damaged."""
        path = Path(folder) / _FILE
        if not path.exists():
            raise InputError(
                f"{folder}: holds no {_FILE}; give an output folder of evaluate."
            )
        try:
            with np.load(path) as file:
                arrays = {name: file[name] for name in _ARRAYS}
                rest = json.loads(file["rest"].tobytes())
            calibrated = rest.pop("calibrated", None)
            return cls(**rest, **arrays, calibrated=calibrated and tuple(calibrated))
        except (ValueError, KeyError, TypeError, OSError, zipfile.BadZipFile):
            raise InputError(
                f"{path}: damaged, or written by another version; evaluate again."
            ) from None

    def in_whole(self, first: int, step: int) -> "Evaluation":
        """This one, of every `step`-th example from `first` on, with their true places.

        What `data.sources.Part` deals to a process counts from 0 there.
        """
        return dataclasses.replace(
            self,
            known=[one | {"index": first + step * one["index"]} for one in self.known],
        )

    @classmethod
    def merge(cls, parts: Iterable["Evaluation"]) -> "Evaluation":
        """One evaluation of what several processes, or data sets, scored.

        Examples come in the order of their set's name and, within it, of their
        `index`, so it does not matter who scored what. Raises `InputError` where
        settings differ, `RuntimeError` where an example was scored more than once.
        """
        parts = list(parts)
        settings = ("threshold", "calibrated", "empty_mask", "permute")
        for name in settings:
            values = {getattr(part, name) for part in parts}
            if len(values) > 1:
                raise InputError(
                    f"Parts of an evaluation have {name} {sorted(map(str, values))};"
                    " score all of them alike."
                )
        known = [one for part in parts for one in part.known]
        places = [(one["set"], one["index"]) for one in known]
        if len(set(places)) < len(places):
            place, _ = collections.Counter(places).most_common(1)[0]
            name = known[places.index(place)]["name"]
            raise RuntimeError(f"{name} was scored twice.")
        order = sorted(range(len(known)), key=places.__getitem__)
        rows = sum(part.loss_rows for part in parts)
        names = dict.fromkeys(n for part in parts if part.loss_rows for n in part.loss)
        return cls(
            known=[known[i] for i in order],
            loss={
                name: sum(p.loss.get(name, 0.0) * p.loss_rows for p in parts) / rows
                for name in names
            },
            loss_rows=rows,
            **{
                name: np.concatenate([getattr(part, name) for part in parts])[order]
                for name in _ARRAYS
            },
            **{name: getattr(parts[0], name) for name in settings},
        )

    # Metrics

    def sample(
        self, threshold: float | None = None, image_threshold: float | None = None
    ) -> metrics.Sample:
        """What metrics are made of; at other thresholds, if given."""
        return metrics.Sample(
            self.histograms,
            self.label,
            self.score,
            self.has_mask,
            self.threshold if threshold is None else threshold,
            self.threshold if image_threshold is None else image_threshold,
            self.empty_mask,
            self.permute,
            self.inner_histograms,
        )

    @functools.cached_property
    def by_protocol(self) -> dict[str, dict]:
        """`metrics.from_histograms` of all protocols at `threshold`."""
        return self.sample().by_protocol()

    def at_threshold(
        self, threshold: float | None, image_threshold: float | None = None
    ) -> dict[str, dict]:
        """`by_protocol` with other thresholds: of maps, and of scores if given."""
        return self.sample(threshold, image_threshold).by_protocol()

    @functools.cached_property
    def rows(self) -> list[dict]:
        """One dict per image, in the standard protocol at `threshold`."""
        columns = metrics.rows(
            self.histograms, self.label, self.score, self.has_mask, self.threshold
        )
        return [known | row for known, row in zip(self.known, columns, strict=True)]

    @functools.cached_property
    def pixel_threshold(self) -> float | None:
        """`metrics.best_pixel_threshold` here: for other data, it flatters this."""
        threshold, _ = metrics.best_pixel_threshold(
            self.histograms, self.label, self.has_mask
        )
        return threshold

    @functools.cached_property
    def image_threshold(self) -> float | None:
        """`metrics.best_image_threshold` here: for other data, it flatters this."""
        threshold, _ = metrics.best_image_threshold(self.label, self.score)
        return threshold

    def baselines(self) -> dict[str, dict]:
        """`metrics.baselines` on the same masks."""
        return metrics.baselines(
            self.histograms, self.label, self.has_mask, self.centre_histograms
        )

    @functools.cached_property
    def groups(self) -> np.ndarray:
        """Which images are drawn together by the bootstrap, int (N,).

        Those of one source group of one set; where the group is not known, an image is
        one by itself.
        """
        return _numbered(
            (known.get("set", ""), known["group"]) if known.get("group") else i
            for i, known in enumerate(self.known)
        )

    def intervals(
        self,
        threshold: float | None = None,
        image_threshold: float | None = None,
        *,
        resamples: int = metrics.RESAMPLES,
        seed: int = 0,
    ) -> dict[str, dict]:
        """`metrics.intervals` over `groups`, of all protocols."""
        return metrics.intervals(
            self.sample(threshold, image_threshold),
            self.groups,
            resamples=resamples,
            seed=seed,
        )

    def scores(
        self,
        *,
        subsets: Sequence[str] = (),
        videos: bool = False,
        resamples: int = metrics.RESAMPLES,
        seed: int = 0,
    ) -> dict:
        """All metrics as `metrics.json` holds them.

        Args:
          subsets: unions of kinds such as "splice+inpainting" to score on their own.
          videos: adds metrics per video beside those per frame (`of_videos`).
          resamples: of the bootstrap; 0 leaves all intervals out.
          seed: of the bootstrap.

        Returns:
          the metrics of each protocol (`metrics.METRICS`) with their `intervals`;
          `validation_threshold`, the same at `calibrated`, or None; `loss`;
          `baselines`; `kinds` and `areas`, standard metrics of a part's manipulated
          images against all authentic ones; `subsets`; `threshold_curve`; `sets`,
          each with all of this, where there are several; `videos` if asked for.
        """
        drawing = {"resamples": resamples, "seed": seed}
        result = self._all(**drawing) | {
            "validation_threshold": None,
            "loss": self.loss,
            "kinds": self.by_kind(**drawing),
            "subsets": {name: self._subset(name, **drawing) for name in subsets},
            "areas": self.by_area(**drawing),
            "baselines": self.baselines(),
            "threshold_curve": metrics.threshold_curve(
                self.histograms, self.label, self.has_mask
            ),
        }
        if self.calibrated:
            pixel, image = self.calibrated
            result["validation_threshold"] = {
                "threshold": pixel,  # None: not known, so `threshold` was taken
                "image_threshold": image,  # likewise
                **self._all(pixel, image, **drawing),
            }
        if len(self.set_names) > 1:
            result["sets"] = {
                name: self.of_set(name).scores(subsets=subsets, **drawing)
                for name in self.set_names
            }
        if videos:
            whole = self.of_videos()
            result["videos"] = {
                "videos": len(whole.known),
                "frame": self._standard(**drawing),
                "video": whole._standard(**drawing),
            }
        return result

    def _all(self, threshold=None, image_threshold=None, *, resamples, seed) -> dict:
        found = self.sample(threshold, image_threshold).by_protocol()
        if resamples:
            found["intervals"] = self.intervals(
                threshold, image_threshold, resamples=resamples, seed=seed
            )
        return found

    def _standard(self, *, resamples: int, seed: int) -> dict:
        """Standard metrics with their intervals among them."""
        found = self.by_protocol["standard"]
        if not resamples:
            return found
        intervals = metrics.intervals(
            self.sample(),
            self.groups,
            resamples=resamples,
            seed=seed,
            protocols=["standard"],
        )
        return found | {"intervals": intervals["standard"]}

    # Parts

    @property
    def set_names(self) -> list[str]:
        """The data sets of the examples, in their order."""
        return list(dict.fromkeys(known.get("set", "") for known in self.known))

    def of_set(self, name: str) -> "Evaluation":
        """The examples of one data set; the loss is not known by set."""
        of_set = [known.get("set", "") == name for known in self.known]
        return self.take(np.flatnonzero(of_set))

    def of_kinds(self, kinds: Collection[str]) -> "Evaluation":
        """The manipulated images of these kinds beside all authentic images."""
        return self._beside_authentic([known["kind"] in kinds for known in self.known])

    def by_kind(self, *, resamples: int = 0, seed: int = 0) -> dict[str, dict]:
        """Standard metrics of each kind of manipulation, with `manipulated` images.

        Pixel metrics average over the manipulated images of the kind; image metrics
        set these against all authentic images. With `resamples`, `intervals` too.
        """
        kinds = {
            known["kind"]
            for known, label in zip(self.known, self.label, strict=True)
            if label == 1
        }
        return {
            kind: self.of_kinds({kind})._counted(resamples=resamples, seed=seed)
            for kind in sorted(kinds)
        }

    def by_area(self, *, resamples: int = 0, seed: int = 0) -> dict[str, dict]:
        """As `by_kind`, by the manipulated share of the image (`AREAS`).

        Only images with a known mask that is not empty; shares without any are left
        out.
        """
        regions = self.histograms[:, 2].sum(axis=1)
        share = regions / np.maximum(self.histograms.sum(axis=(1, 2)), 1)
        known = self.has_mask & (self.label == 1) & (regions > 0)
        parts = {
            name: known & (least <= share) & (share < below)
            for name, (least, below) in AREAS.items()
        }
        return {
            name: self._beside_authentic(part)._counted(resamples=resamples, seed=seed)
            for name, part in parts.items()
            if part.any()
        }

    def of_videos(self) -> "Evaluation":
        """Each video as one example, made of its frames.

        The frames of a video share set, source, group and name but for the number at
        its end (`videos/041_30.png`). Score: the mean of the frames'; pixels: those of
        all frames together, known where every frame's mask is; manipulated where a
        frame is.
        """
        videos = [
            (known.get("set", ""), known["source"], known["group"], _video(known))
            for known in self.known
        ]
        number = _numbered(videos)
        _, first, frames = np.unique(number, return_index=True, return_counts=True)
        count = len(first)
        total = lambda values: np.bincount(number, values, minlength=count)

        def pooled(histograms):
            sums = np.zeros((count, *histograms.shape[1:]), np.int64)
            np.add.at(sums, number, histograms)
            return sums

        return dataclasses.replace(
            self,
            known=[
                {**self.known[i], "name": videos[i][-1], "index": video}
                for video, i in enumerate(first)
            ],
            histograms=pooled(self.histograms),
            inner_histograms=pooled(self.inner_histograms),
            centre_histograms=pooled(self.centre_histograms),
            label=(total(self.label) > 0).astype(np.int64),
            score=total(self.score) / frames,
            has_mask=total(self.has_mask) == frames,
            loss={},
            loss_rows=0,
        )

    def take(self, places: np.ndarray) -> "Evaluation":
        """The examples at these places, in their order; their loss is not known."""
        return dataclasses.replace(
            self,
            known=[self.known[i] for i in places],
            loss={},
            loss_rows=0,
            **{name: getattr(self, name)[places] for name in _ARRAYS},
        )

    def _beside_authentic(self, kept) -> "Evaluation":
        return self.take(np.flatnonzero((self.label == 0) | np.asarray(kept, bool)))

    def _counted(self, **drawing) -> dict:
        manipulated = int(np.count_nonzero(self.label == 1))
        return {"manipulated": manipulated, **self._standard(**drawing)}

    def _subset(self, name: str, **drawing) -> dict:
        """Standard metrics of a union of kinds and its baselines."""
        part = self.of_kinds(name.split("+"))
        return {
            "manipulated": int(np.count_nonzero(part.label)),
            "standard": part._standard(**drawing),
            "baselines": part.baselines(),
        }


def _video(known: dict) -> str:
    """A frame's name without its ending and the number of the frame."""
    stem = os.path.splitext(known["name"])[0]
    return _FRAME_NUMBER.sub("", stem)


def _numbered(keys: Iterable[Hashable]) -> np.ndarray:
    """Which distinct key each one is, counted in the order of their first."""
    numbers = collections.defaultdict(lambda: len(numbers))
    return np.array([numbers[key] for key in keys], np.int64)
