"""Low-rank adapters (Hu et al., 2022) beside any network's dense layers.

A dense layer y = x W gets y = x W + alpha / rank (x A) B, with B = 0 at the start. W
stays where it is; what trains is for the optimizer's `freeze` to say.
"""

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Mapping, Sequence

from flax import linen as nn

from sdfl_jax.errors import InputError
from sdfl_jax.trees import patterns

LEAVES = ("lora_a", "lora_b")  # in rank, rank out; beside the kernel


@dataclasses.dataclass(frozen=True)
class Lora:
    """Which dense layers get adapters, and of what size.

    patterns    over the paths of layers, as "encoder/*/qkv"
    rank        of the product A B
    alpha       the product is multiplied by alpha / rank
    """

    patterns: tuple[str, ...]
    rank: int = 8
    alpha: float = 16.0

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def of_settings(settings: Mapping) -> Lora:
    """The adapters that `config.model.lora` asks for.

    Raises InputError for settings that there are not, and values that do not fit.
    """
    known = [field.name for field in dataclasses.fields(Lora)]
    for name in settings:
        if name not in known:
            raise InputError(f"No setting lora.{name}; there are {known}.")
    layers = settings.get("patterns", ())
    layers = (layers,) if isinstance(layers, str) else tuple(layers)
    lora = Lora(**{**settings, "patterns": layers})
    if not layers or lora.rank < 1 or not lora.alpha > 0:
        raise InputError(
            f"lora {dict(settings)}: takes patterns of dense layers, as "
            "('encoder/*/qkv',), a rank of 1 or more and an alpha above 0."
        )
    return lora


_ACTIVE = contextvars.ContextVar("lora", default=None)


def adapted(network: nn.Module, lora: Lora) -> nn.Module:
    """`network` with adapters beside its dense layers; all else stays where it is.

    Applied, it raises InputError where a pattern stands for no layer.
    """
    given = {
        field.name: getattr(network, field.name)
        for field in dataclasses.fields(network)
        if field.name not in ("parent", "name")
    }
    return _adapted_class(type(network))(**given, lora=lora)


@functools.cache
def _adapted_class(network: type[nn.Module]) -> type[nn.Module]:
    class Adapted(network):
        lora: Lora | None = None

        def __call__(self, *args, **settings):
            with _active(self.lora) as used:
                outputs = super().__call__(*args, **settings)
            for pattern in self.lora.patterns:
                if pattern not in used:
                    raise InputError(
                        f"lora: no dense layer of this network is called {pattern!r}."
                    )
            return outputs

    return Adapted


@contextlib.contextmanager
def _active(lora: Lora):
    used = set()
    token = _ACTIVE.set((lora, used))
    try:
        yield used
    finally:
        _ACTIVE.reset(token)


def of_layer(path: Sequence[str]) -> Lora | None:
    """The adapters that the dense layer at `path` has while a network is applied."""
    if _ACTIVE.get() is None:
        return None
    lora, used = _ACTIVE.get()
    name = "/".join(path)
    fitting = [p for p in lora.patterns if patterns.fits(name, [p])]
    used.update(fitting)
    return lora if fitting else None
