"""What is scored, how, and where the output goes."""

import dataclasses
from collections.abc import Sequence

from sdfl_jax import metrics
from sdfl_jax.data import degrade, eval_sources, tiling
from sdfl_jax.data.workers import Workers
from sdfl_jax.errors import InputError, valid
from sdfl_jax.steps import IMAGE_LEVEL_MASKS

TTA = ("none", "flips")
SCORING = ("original", "network")

_CHOICES = {
    "protocol": metrics.METRICS,
    "tta": TTA,
    "scoring": SCORING,
    "image_level_mask": IMAGE_LEVEL_MASKS,
    "size_mismatch": eval_sources.SIZE_MISMATCH,
    "empty_mask": metrics.EMPTY_MASK,
}


# Options that ask a network something, which saved masks cannot answer.
_OF_NETWORKS = (
    "checkpoint",
    "tile",
    "overlap",
    "tta",
    "image_level_mask",
    "scoring",
    "robustness",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is scored, how, and where the output goes: the flags of the command line."""

    out: str
    # What is scored, and against what.
    workdir: str | None = None
    checkpoint: str = "best"
    predictions: str | None = None
    data: str | None = None
    paths_file: str | None = None
    root: str | None = None
    replace: Sequence[str] = ()
    mask_inverted: bool = False
    mask_as_stored: bool = False
    # How a network sees an image.
    tile: int | None = None
    overlap: int | None = None  # `tiling.OVERLAP`, or half of a smaller tile
    tta: str = "none"
    image_level_mask: str = "grey"
    # How it is scored.
    protocol: str = "standard"
    scoring: str = "original"
    threshold: float = 0.5
    size_mismatch: str = "resize"
    empty_mask: str = "one"
    permute: bool = False
    videos: bool = False
    subsets: Sequence[str] = ()
    robustness: Sequence[str] = ()
    # How it runs.
    batch_size: int = 8
    workers: Workers = 0
    strict: bool = False

    def __post_init__(self):
        """Raises `InputError` for values that mean nothing or not together."""
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                given = getattr(self, name)
                raise InputError(f"--{name}={given}: {valid(given, known)}")
        if not 0 < self.threshold < 1:
            raise InputError(f"--threshold={self.threshold}: must lie between 0 and 1.")
        for name, least in (("batch_size", 1), ("workers", 0), ("overlap", 0)):
            given = getattr(self, name)
            if isinstance(given, int) and given < least:
                raise InputError(f"--{name}={given}: {least} or more is expected.")
        if (self.workdir is None) == (self.predictions is None):
            raise InputError(
                "Give --workdir=DIR to score a network or --predictions=DIR to score "
                "saved masks: one of them."
            )
        if (self.data is None) == (self.paths_file is None):
            raise InputError("Give --data=SHARDS or --paths_file=FILE: one of them.")
        if self.tile is not None and (self.tile < 32 or self.tile % tiling.STRIDE):
            raise InputError(
                f"--tile={self.tile}: a multiple of {tiling.STRIDE} is expected."
            )
        if 2 * (self.overlap or 0) > (self.tile or tiling.MAX_SIDE):
            raise InputError(
                f"--overlap={self.overlap}: at most half a tile of "
                f"{self.tile or tiling.MAX_SIDE} pixels."
            )
        for kind in self.robustness:
            if kind not in degrade.STRENGTHS:
                raise InputError(
                    f"--robustness={kind}: no such degradation; "
                    f"{valid(kind, degrade.STRENGTHS)}"
                )
        if self.predictions is not None:
            changed = [
                f"--{field.name}"
                for field in dataclasses.fields(self)
                if field.name in _OF_NETWORKS
                and getattr(self, field.name) != field.default
            ]
            if changed:
                raise InputError(
                    f"{', '.join(changed)}: for a network (--workdir), not for saved "
                    "--predictions."
                )
