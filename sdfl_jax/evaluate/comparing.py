"""Two evaluations of the same images side by side."""

import os

from sdfl_jax import evaluators, report
from sdfl_jax.evaluators import Evaluation
from sdfl_jax.report import tables


def compare(first: str, second: str) -> str:
    """A table of how two output folders differ on the same images, and by what chance.

    Either may be several, divided by commas: runs of one experiment, whose mean counts.
    Raises `InputError` where they are none, or not of the same images and masks.
    """
    found = evaluators.compare(_runs(first), _runs(second))
    parts = [
        f"A: {first}\nB: {second}",
        f"{found['images']} images in {found['groups']} groups, {found['resamples']} "
        "resamples (paired bootstrap). The p-values are of single metrics, not "
        "corrected for looking at many.",
    ]
    columns = {"metric": "", "first": "A", "second": "B", "difference": "B - A"}
    columns |= {"interval": "95 % interval", "p_value": "p"}
    for key, title in _COMPARED.items():
        if key in found:
            protocols = (
                found[key] if key == "validation_threshold" else {"": found[key]}
            )
            for protocol, entries in protocols.items():
                rows = [
                    {"metric": tables.heading(name)}
                    | entry
                    | {"interval": tables.interval(entry["interval"])}
                    for name, entry in entries.items()
                ]
                parts += [f"{title}{protocol}", report.table(rows, columns)]
    return "\n\n".join(parts)


def _runs(text: str) -> list[Evaluation]:
    folders = [text] if os.path.isdir(text) else text.split(",")
    return [Evaluation.load(folder) for folder in folders]


_COMPARED = {
    "standard": "Standard protocol",
    "reference": "Reference protocol",
    "benco": "IMDL-BenCo's protocol",
    "trufor": "TruFor's protocol",
    "validation_threshold": "At each one's thresholds of the validation data: ",
}
