"""The images of an evaluation that a reader should see, kept while it runs."""

import heapq

import numpy as np

from sdfl_jax import metrics
from sdfl_jax.drawing.overlay import thumbnail
from sdfl_jax.report.pictures import overlay, plane

# What is kept, in the order of the page.
SECTIONS = {
    "best": "Best: manipulated images with the highest pixel F1",
    "worst": "Worst: manipulated images with the lowest pixel F1",
    "false_alarms": "False alarms: authentic images with the most marked area",
    "random": "Random images",
}


class Gallery:
    """Thumbnails of the best, the worst and random images of a stream.

    Memory does not grow with the stream: of each section the `kept` images that lead
    so far are held, no side longer than `side` pixels.
    """

    def __init__(
        self, threshold: float = 0.5, *, kept: int = 4, side: int = 320, seed: int = 0
    ):
        self._threshold = threshold
        self._kept = kept
        self._side = side
        self._rng = np.random.default_rng(seed)
        self._seen = 0
        # Heaps of (rank, -place, row): the first row is the next to go.
        self._heaps = {name: [] for name in SECTIONS}

    def offer(self, example: dict, mask_probs: np.ndarray):
        """Considers one example and its map, H W float or uint8.

        `example` holds `image` uint8 H W 3 (without it the example is passed over),
        `original_mask` uint8 H W, `name`, `label`, `has_mask` and perhaps `kind`.
        """
        if example.get("image") is None:
            return
        mask = plane(example["original_mask"]) >= 128
        # Not as uint8: this only ranks, and takes a tenth of the time.
        scale = 255 if mask_probs.dtype == np.uint8 else 1
        called = plane(mask_probs) >= scale * self._threshold
        area = float(np.count_nonzero(called) / called.size)
        ranks, f1 = {"random": self._rng.random()}, None
        if example["label"] and example["has_mask"] and mask.any():
            both = np.count_nonzero(mask & called)
            f1 = 2 * both / (np.count_nonzero(mask) + np.count_nonzero(called))
            ranks |= {"best": f1, "worst": -f1}
        elif not example["label"] and area > 0:
            ranks["false_alarms"] = area
        self._seen += 1
        row = None
        for section, rank in ranks.items():
            heap = self._heaps[section]
            if len(heap) == self._kept and rank <= heap[0][0]:
                continue
            row = row or self._row(example, mask_probs, f1, area)
            # Of equal ones the first stays; rows themselves are never compared.
            entry = (rank, -self._seen, row)
            if len(heap) < self._kept:
                heapq.heappush(heap, entry)
            else:
                heapq.heapreplace(heap, entry)

    @property
    def sections(self) -> dict[str, list[dict]]:
        """Rows by section, the most extreme first; sections without rows left out.

        A row has `image` and `overlay` (uint8 h w 3), `mask` (uint8 h w, None where it
        is not known), `mask_probs` (uint8 h w) and `confidence` (likewise, None of
        networks without), `name`, `kind`, `label`,
        `pixel_f1` (None where it has no meaning) and `predicted_area`.
        """
        found = {}
        for section, heap in self._heaps.items():
            if heap:
                entries = sorted(heap, key=lambda entry: entry[:2], reverse=True)
                found[section] = [_with_overlay(row) for _, _, row in entries]
        return found

    def _row(self, example, mask_probs, f1, area) -> dict:
        image = thumbnail(example["image"], self._side)
        probs = thumbnail(metrics.to_uint8(plane(mask_probs)), self._side)
        known = example["has_mask"]
        mask = thumbnail(plane(example["original_mask"]), self._side) if known else None
        confidence = example.get("confidence_map")
        if confidence is not None:
            confidence = thumbnail(metrics.to_uint8(confidence), self._side).copy()
        return {
            "confidence": confidence,
            "image": image.copy(),  # a thumbnail may be a view of the whole batch
            "mask": None if mask is None else mask.copy(),
            "mask_probs": probs.copy(),
            "name": example["name"],
            "set": example.get("set", ""),
            "kind": example.get("kind", ""),
            "label": int(example["label"]),
            "pixel_f1": f1,
            "predicted_area": area,
        }


def _with_overlay(row: dict) -> dict:
    """Drawn for what is shown alone, for contours take time."""
    return row | {"overlay": overlay(row["image"], row["mask_probs"])}
