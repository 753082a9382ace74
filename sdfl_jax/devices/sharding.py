"""Where arrays live: batches split over devices, the state on all of them or split too.

The mesh has two axes. `data` splits the examples of a batch; `space` splits the height
of the images as well, for images too large for one device: the compiler inserts the
exchange of border rows that convolutions need.
"""

import collections
import math
import re

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from sdfl_jax.errors import InputError

# Smaller arrays are not worth a transfer of their own.
SMALLEST_SPLIT = 2**11


def make_mesh(data: int = -1, space: int = 1, devices=None) -> Mesh:
    """`data` x `space` of the `devices` (all there are); -1 takes as many as fit.

    Raises InputError where the devices are too few or do not divide.
    """
    devices = list(devices or jax.devices())
    if space < 1 or data == 0 or data < -1:
        raise InputError(
            f"config.mesh: data={data}, space={space}; both count devices, and data=-1 "
            "takes all that are left."
        )
    taken = len(devices) // space * space if data == -1 else data * space
    uneven = data == -1 and taken != len(devices)
    if uneven or not 0 < taken <= len(devices):
        raise InputError(
            f"config.mesh: data={data}, space={space}, but there are {len(devices)} "
            "devices; give numbers whose product is at most that, or a space that "
            "divides it with data=-1."
        )
    return Mesh(np.array(devices[:taken]).reshape(-1, space), ("data", "space"))


def data_mesh(devices=None) -> Mesh:
    """All devices along `data`."""
    return make_mesh(devices=devices)


def local_mesh(mesh: Mesh) -> Mesh:
    """This process's own devices of `mesh`, with the same `space`."""
    mine = [d for d in mesh.devices.flat if d.process_index == jax.process_index()]
    return make_mesh(space=mesh.shape["space"], devices=mine)


def split(mesh: Mesh) -> NamedSharding:
    """The first axis spread over `data`."""
    return NamedSharding(mesh, P("data"))


def everywhere(mesh: Mesh) -> NamedSharding:
    """A whole copy on each device."""
    return NamedSharding(mesh, P())


def of_batch(ndim: int, mesh: Mesh) -> NamedSharding:
    """How an array of a batch lies: images and masks (B H W C) split in height too."""
    return NamedSharding(mesh, P("data", "space") if ndim == 4 else P("data"))


def of_state(shape: tuple[int, ...], mesh: Mesh, shard_state: bool) -> NamedSharding:
    """How an array of the state lies: whole everywhere, or split over `data`.

    Split is the longest axis that the devices divide. An array and the optimizer's
    moments of it have one shape, and so lie alike.
    """
    devices = mesh.shape["data"]
    fits = [i for i, length in enumerate(shape) if length and length % devices == 0]
    if not shard_state or math.prod(shape) < SMALLEST_SPLIT or not fits:
        return everywhere(mesh)
    axis = max(fits, key=lambda i: shape[i])
    return NamedSharding(mesh, P(*(None,) * axis, "data"))


def to_global(batch: dict, mesh: Mesh) -> dict:
    """Joins every process's part of a batch into arrays that span the mesh."""

    def put(array):
        if isinstance(array, jax.Array):
            return array
        layout = of_batch(np.ndim(array), mesh)
        return jax.make_array_from_process_local_data(layout, array)

    return {name: put(array) for name, array in batch.items()}


def place(tree: PyTree, mesh: Mesh, shard_state: bool = False) -> PyTree:
    """Puts a tree that every process holds whole onto the mesh, as `of_state` says."""

    def put(array):
        layout = of_state(array.shape, mesh, shard_state)
        if jax.process_count() == 1:
            return jax.device_put(array, layout)
        array = np.asarray(array)
        return jax.make_array_from_callback(
            array.shape, layout, lambda index: array[index]
        )

    return jax.tree.map(put, tree)


def constrain(tree: PyTree, mesh: Mesh, shard_state: bool) -> PyTree:
    """Inside a compiled function: the tree lies as `of_state` says from here on."""
    return jax.tree.map(
        lambda x: jax.lax.with_sharding_constraint(
            x, of_state(x.shape, mesh, shard_state)
        ),
        tree,
    )


def local_copy(tree: PyTree, mesh: Mesh) -> PyTree:
    """The tree, whole, on each of this process's devices: `mesh` is a `local_mesh`.

    Every process must call it: arrays that are split over processes are joined first.
    """

    def copy(x):
        if not isinstance(x, jax.Array) or x.is_fully_addressable:
            return jax.device_put(x, everywhere(mesh))
        if not x.is_fully_replicated:
            whole = everywhere(x.sharding.mesh)
            x = jax.jit(lambda x: x, out_shardings=whole)(x)
        return jax.device_put(x.addressable_data(0), everywhere(mesh))

    return jax.tree.map(copy, tree)


def bytes_per_device(tree: PyTree) -> int:
    """What one device of this process holds of the tree's arrays."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


def fitting_batch_size(batch_size: int, mesh: Mesh) -> int:
    """The smallest multiple of the number of devices that holds `batch_size`."""
    devices = mesh.shape["data"]
    return -(-batch_size // devices) * devices


_COLLECTIVE = re.compile(
    r" = (?P<shapes>[^\n]*?) (?P<name>all-reduce|all-gather|reduce-scatter"
    r"|all-to-all|collective-permute)(?:-start)?\("
)
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+)\[([\d,]*)\]")


def collectives(program: str) -> dict[str, int]:
    """Bytes that each kind of collective of a compiled program (its text) delivers."""
    totals = collections.Counter()
    for match in _COLLECTIVE.finditer(program):
        for dtype, sizes in _ARRAY.findall(match["shapes"]):
            bits = 8 if dtype == "pred" else int(re.sub(r"\D", "", dtype[:4]))
            count = math.prod(int(size) for size in sizes.split(",") if size)
            totals[match["name"]] += count * bits // 8
    return dict(totals)
