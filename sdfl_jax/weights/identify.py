"""Which network a file of weights belongs to, by its arrays' names and shapes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from sdfl_jax import models
from sdfl_jax.weights import foreign, torch_names


@dataclasses.dataclass(frozen=True)
class Candidate:
    """How far a file is one network's: `matched` of its `places` arrays."""

    name: str
    kind: str  # "network" or "encoder"
    matched: int
    places: int
    unknown: int  # arrays of the file that it has no place for

    @property
    def share(self) -> float:
        """1 where every array of both has its counterpart."""
        return self.matched / max(self.places + self.unknown, 1)


def identify(state_dict: dict[str, np.ndarray]) -> list[Candidate]:
    """Every network and encoder, with its default settings, the most alike first."""
    found = []
    for name in models.MODELS:
        network = models.build(name)
        side = getattr(network, "image_size", 64)
        init = lambda n=network, s=side: models.init_variables(n, s, jax.random.key(0))
        found.append(_compared(name, "network", network, init, state_dict))
    for name, make in (models.ENCODERS | models.NOISE_ENCODERS).items():
        encoder, image = make(), jnp.zeros((1, 64, 64, 3))
        init = lambda e=encoder, x=image: e.init(jax.random.key(0), x, train=False)
        found.append(_compared(name, "encoder", encoder, init, state_dict))
    return sorted(found, key=lambda c: (-c.share, -c.places))


def _compared(name, kind, module, init, state_dict) -> Candidate:
    template = jax.eval_shape(init)
    places = {
        path: place.shape
        for path, place in traverse_util.flatten_dict(template, sep="/").items()
    }
    named = foreign.unprefixed(state_dict, template, module)
    matched = unknown = 0
    for theirs, array in torch_names.joined(named, module).items():
        path = torch_names.path_of(theirs, np.ndim(array), module)
        if path in places and foreign.to_our_layout(path, array).shape == places[path]:
            matched += 1
        elif path is not None:
            unknown += 1
    return Candidate(name, kind, matched, len(places), unknown)
