"""Near-duplicates among very many images: perceptual hashes and a banded search.

A fingerprint is the perceptual hash of the ImageHash library, with 256 bits: the signs
of the 16 x 16 lowest frequencies of the grey image around their median. Among 500
varied photographs no two differ in fewer than 80 bits; a copy at JPEG quality 30, or at
half the size, differs in up to 8 from its original, a brightened one in up to 18, one
with 3 % of its area copied elsewhere in 26 (median). Mirrored or rotated copies are not
found.
"""

import imagehash
import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

BYTES = 32
NEAR = 32  # bits that may differ

_CHUNK = 2_000_000  # pairs compared at once: about 250 MB


def fingerprint(image: UInt8[np.ndarray, "H W 3"]) -> bytes | None:
    """A perceptual hash of 256 bits; None for an image without texture.

    Without texture the hash would be of rounding errors alone.
    """
    grey = Image.fromarray(image).convert("L")
    grey.thumbnail((256, 256), Image.Resampling.BOX)
    if np.asarray(grey).std() < 2:
        return None
    return np.packbits(imagehash.phash(grey, hash_size=16).hash).tobytes()


def nearest(
    queries: UInt8[np.ndarray, "Q 32"], others: UInt8[np.ndarray, "N 32"]
) -> tuple[Int[np.ndarray, "Q"], Int[np.ndarray, "Q"]]:
    """Index of the nearest of `others` for each query and the bits that differ.

    The index is -1 where none is within `NEAR` bits. Only fingerprints that agree in
    one of 16 bands of 16 bits are compared: this misses no pair within 15 bits, and few
    up to 32, without comparing all with all.
    """
    index = np.full(len(queries), -1)
    distance = np.full(len(queries), 8 * BYTES)
    if not len(queries) or not len(others):
        return index, distance
    # Equal fingerprints are searched once, lest many of them meet as many others.
    a, _, back = _distinct(queries)
    b, first, _ = _distinct(others)
    best, best_distance = _search(a, b)
    found = best >= 0
    best[found] = first[best[found]]
    return best[back], best_distance[back]


def _distinct(hashes):
    """Distinct rows, where each occurs first, and which of them each row is."""
    keys = np.ascontiguousarray(hashes).view(f"S{BYTES}").ravel()
    _, first, back = np.unique(keys, return_index=True, return_inverse=True)
    return hashes[first], first, back


def _search(a, b):
    index = np.full(len(a), -1)
    distance = np.full(len(a), 8 * BYTES)
    a_bands, b_bands = (np.ascontiguousarray(x).view(np.uint16) for x in (a, b))
    a_words, b_words = (np.ascontiguousarray(x).view(np.uint64) for x in (a, b))
    for band in range(a_bands.shape[1]):
        order = np.argsort(b_bands[:, band], kind="stable")
        keys = b_bands[order, band]
        low = np.searchsorted(keys, a_bands[:, band], "left")
        counts = np.searchsorted(keys, a_bands[:, band], "right") - low
        total = np.cumsum(counts)
        cuts = np.searchsorted(total, np.arange(_CHUNK, total[-1] + _CHUNK, _CHUNK))
        start = 0
        for stop in np.unique(np.minimum(cuts + 1, len(a))):
            part = slice(start, stop)
            start = stop
            rows = np.repeat(np.arange(part.start, part.stop), counts[part])
            # Places in the sorted order: low, low + 1, ... for each row.
            ends = np.cumsum(counts[part])
            steps = np.arange(len(rows)) - np.repeat(ends - counts[part], counts[part])
            columns = order[low[rows] + steps]
            bits = np.bitwise_count(a_words[rows] ^ b_words[columns])
            bits = bits.sum(axis=1, dtype=np.int64)
            near = np.flatnonzero((bits <= NEAR) & (bits < distance[rows]))
            rows, columns, bits = rows[near], columns[near], bits[near]
            order_of_best = np.lexsort((columns, bits, rows))
            rows, columns, bits = (x[order_of_best] for x in (rows, columns, bits))
            rows, nearest_one = np.unique(rows, return_index=True)
            index[rows], distance[rows] = columns[nearest_one], bits[nearest_one]
    return index, distance
