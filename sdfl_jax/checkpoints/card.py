"""The model card: what a checkpoint is, what it was made of and how well it does.

Every checkpoint carries one as JSON, under `card` in its `progress`; that of the best
one also stands in `WORKDIR/model_card.md`.
"""

import csv
import hashlib
import importlib.metadata
import os
import platform
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from sdfl_jax import __version__
from sdfl_jax.data import mixing, records
from sdfl_jax.data.audit.leaks import LEAKS
from sdfl_jax.errors import InputError
from sdfl_jax.files import replacing
from sdfl_jax.trees.nested import flat

FILE = "model_card.md"
_FINDINGS = "findings.csv"  # what `sdfl_jax.data.audit --out=DIR` writes
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def describe(settings: Mapping, *, train: str, val: str, audit: str = "") -> dict:
    """The part of the card that is known before training.

    Args:
      settings: the run's config as nested dicts; it goes into the card as it is.
      train, val: folders of shards.
      audit: see `read_audit`.

    Returns:
      `versions`, `config`, `data` (by split: path, examples, sources, kinds and the
      SHA-256 of the manifest) and `audit`.

    Raises:
      InputError: a folder of shards, or the audit that is named, is missing.
    """
    versions = {"sdfl_jax": __version__, "python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {
        "versions": versions,
        "config": dict(settings),
        "data": {"train": _data(train), "val": _data(val)},
        "audit": read_audit(audit, beside=train),
    }


def with_scores(card: Mapping, step: int, progress: Mapping) -> dict:
    """The card of one checkpoint: `step` and, once validated, its `scores`.

    `scores` are those of the last validation: its step, both protocols' metrics,
    losses and the thresholds that were best.
    """
    scores = None
    metrics = progress.get("metrics") or progress.get("figures")  # older runs' name
    if metrics:
        scores = {
            "step": progress["step"],
            **metrics,
            "loss": progress["loss"],
            "pixel_threshold": progress["pixel_threshold"],
            "image_threshold": progress["image_threshold"],
            "warnings": progress.get("warnings", []),
        }
    return {**card, "step": step, "scores": scores}


def read_audit(given: str, *, beside: str = "") -> dict | None:
    """What an audit of the data found: `path`, `findings` and `leaks` by split.

    `given` is `findings.csv` or its folder; where it is empty, the file is looked for
    in the folder of shards `beside`, in the folder above and in `audit` in either.
    None if there is none; `InputError` if the given one is none.
    """
    if given:
        path = Path(given)
        path = path / _FINDINGS if path.is_dir() else path
    else:
        shards = Path(beside)
        folders = (shards, shards / "audit", shards.parent, shards.parent / "audit")
        path = next((f / _FINDINGS for f in folders if (f / _FINDINGS).is_file()), None)
        if path is None:
            return None
    try:
        with path.open(newline="", errors="backslashreplace") as file:
            rows = list(csv.DictReader(file))
            found = [(row["finding"], row["split_a"], row["line"]) for row in rows]
    except FileNotFoundError:
        raise InputError(
            f"config.data.audit={given}: no {_FINDINGS} there; it is what "
            "python -m sdfl_jax.data.audit --out=DIR writes."
        ) from None
    except (KeyError, csv.Error):
        raise InputError(f"{path}: not what sdfl_jax.data.audit writes.") from None
    leaking = {(split, line) for finding, split, line in found if finding in LEAKS}
    return {
        "path": str(path),
        "findings": dict(Counter(finding for finding, _, _ in found)),
        # Lines of a split that share something with a split it is kept apart from.
        "leaks": dict(sorted(Counter(split for split, _ in leaking).items())),
    }


def write(workdir: str | os.PathLike, card: Mapping) -> None:
    """Writes the card as Markdown to `WORKDIR/model_card.md`."""
    with replacing(Path(workdir) / FILE) as beside:
        beside.write_text(markdown(card), encoding="utf-8", errors="backslashreplace")


def markdown(card: Mapping) -> str:
    """The card for people, the config in full at its end."""
    config = card["config"]
    parts = [f"# Model card: {config['model']['name']}, step {card['step']}"]
    for split, data in card["data"].items():
        parts.append(f"## Data: {split}\n\n{_listed(data)}")
    audit = card["audit"]
    said = "none was found" if audit is None else _listed(audit)
    parts.append(f"## Audit of the data\n\n{said}")
    scores = card["scores"]
    if scores is None:
        parts.append("## Validation\n\nNot validated yet.")
    else:
        known = {k: scores[k] for k in ("step", "pixel_threshold", "image_threshold")}
        parts.append(f"## Validation\n\n{_listed(known)}")
        if signs := scores.get("warnings"):
            parts.append("Warnings:\n\n" + "\n".join(f"- {sign}" for sign in signs))
        for name in ("standard", "reference", "loss"):
            parts.append(f"### {name}\n\n{_listed(scores[name])}")
    parts.append(f"## Versions\n\n{_listed(card['versions'])}")
    parts.append(f"## Config\n\n{_listed(flat(config))}")
    return "\n\n".join(parts) + "\n"


def _data(folder: str) -> dict:
    # Imported late: reading a card, which each command does, needs no forgeries.
    from sdfl_jax.data.forge import stream

    if stream.is_stream(folder):
        found = stream.folders(folder)
        return {
            "forged_from": {part.path: len(part.names) for part in found},
            "weights": {part.path: part.weight for part in found},
            "kinds": stream.KINDS,
        }
    if mixing.is_mix(folder):
        return {
            part.name: {"drawn_per_epoch": part.count, **_data(part.folder)}
            for part in mixing.parts(folder)
        }
    manifest = records.read_manifest(folder)
    content = (Path(folder) / records.MANIFEST).read_bytes()
    return {
        "path": str(folder),
        "examples": manifest["examples"],
        "sources": manifest.get("sources", {}),
        "kinds": manifest.get("kinds", {}),
        "manifest_sha256": hashlib.sha256(content).hexdigest(),
    }


def _listed(values: Mapping) -> str:
    return "\n".join(f"- {name}: {_say(value)}" for name, value in values.items())


def _say(value) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        inner = (f"{name or '(none)'} {_say(part)}" for name, part in value.items())
        return ", ".join(inner) or "none"
    return str(value)
