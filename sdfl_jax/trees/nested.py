"""Nested dicts, such as a config or a model card, as one flat table."""

from collections.abc import Mapping


def flat(section: Mapping, prefix: str = "") -> dict:
    """`{"data.train": ...}`, with lists for tuples, as JSON has them."""
    found = {}
    for name, value in section.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = list(value) if isinstance(value, tuple) else value
    return found
