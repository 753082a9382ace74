"""`pyramid_pool` as a kernel for NVIDIA GPUs, in Pallas by way of Triton. Experimental.

Its values and gradients are tested, but no program takes it by itself: nothing has been
measured on a GPU yet. What decides is `python -m benchmarks.pooling` on one: where the
kernel is faster than XLA's form, forward and with gradient, the card's compute
capability goes into `pooling.KERNEL_WINS`; if it wins on none, this file can go.

A program owns a few channels of one example and walks down its rows. A row is loaded
whole, each of its positions a vector of channels, and goes into one sum per column of
atoms, from there into one accumulator per atom, all in registers; at the end the cells
of every grid are written. So each feature is read once, by one thread, and nothing is
exchanged between threads. The gradient walks the same way and writes each row once.

The weights along a row are constants in the program, which leaves out what they would
multiply by zero. Only channels lie in vectors, in blocks of a power of two as Triton
asks for, masked beyond C: height, width and number of atoms may be anything.
"""

import functools
import re

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.experimental import pallas as pl
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sdfl_jax.ops.atoms import Grids, adjoint

try:
    from jax.experimental.pallas import triton as plt
except ImportError:  # deprecated in JAX 0.12: `missing` says so where it is gone
    plt = None

CAPABILITY = 8.0  # the lowest that XLA compiles Triton for
# Two channels a thread: in float32 the 36 accumulators of 1, 2, 3 and 6 bins and a row
# of 32 positions take 136 of a thread's 255 registers.
CHANNELS = 64
WARPS = 1


def pyramid_pool(
    features: Float[ArrayLike, "B H W C"],
    bins: tuple[int, ...] = (1, 2, 3, 6),
    interpret: bool = False,
    channels: int = CHANNELS,
) -> tuple[Float[Array, "B g g C"], ...]:
    """`ops.pyramid_pool`, by the kernel; `interpret` runs it without a GPU, slowly.

    `channels`, a power of two, is how many a program owns. A batch split over devices
    stays where it is, and so do split channels.
    """
    features = jnp.asarray(features)
    grids = Grids(*features.shape[1:3], tuple(bins))
    return _operation(interpret, channels)(features, grids)


def missing() -> str:
    """What keeps the kernel from running on the default device; empty if nothing."""
    if plt is None:
        return f"the kernel needs Pallas' Triton, and JAX {jax.__version__} has none"
    device = _device()
    needed = (
        f"the kernel needs an NVIDIA GPU of compute capability {CAPABILITY} or higher"
    )
    if capability() is None:
        return f"{needed}, and this is {device.platform} ({device.device_kind})"
    if float(capability()) < CAPABILITY:
        return f"{needed}, and a {device.device_kind} has {capability()}"
    return ""


def capability() -> str | None:
    """The default device's compute capability, such as "9.0"; None if not NVIDIA's."""
    found = str(getattr(_device(), "compute_capability", ""))
    return found if found.replace(".", "", 1).isdigit() else None


def _device():
    device = jax.config.jax_default_device
    return device if isinstance(device, jax.Device) else jax.local_devices()[0]


@functools.cache
def _operation(interpret: bool, channels: int):
    """`pool(features, grids)` with its gradient, both by kernels."""
    call = functools.partial(_call, interpret=interpret, channels=channels)

    def pool(features, grids):
        B, _, _, C = features.shape
        shapes = [(B, g, g, C) for g in grids.bins]
        return tuple(call(_pool_kernel, grids, [features], shapes))

    def spread(cells, grids):
        B, _, _, C = cells[0].shape
        shapes = [(B, grids.height, grids.width, C)]
        return call(_spread_kernel, grids, list(cells), shapes)[0]

    return adjoint(pool, spread)


def _pool_kernel(features_ref, rows_ref, *cells_refs, grids: Grids, valid):
    rows, columns = len(grids.rows), grids.columns
    dtype = rows_ref.dtype

    def add_row(h, atoms):
        row = [_load(features_ref, h, w, valid, dtype) for w in range(grids.width)]
        sums = [_weighted(row, weights) for weights in columns]
        by_row = [rows_ref[h, i] for i in range(rows)]
        return [
            [atom + weight * part for atom, part in zip(line, sums, strict=True)]
            for line, weight in zip(atoms, by_row, strict=True)
        ]

    zero = jnp.zeros(valid.shape, dtype)
    atoms = [[zero] * len(columns) for _ in range(rows)]
    atoms = jax.lax.fori_loop(0, grids.height, add_row, atoms)
    for ref, cells in zip(cells_refs, grids.cells(atoms), strict=True):
        for i, line in enumerate(cells):
            for j, cell in enumerate(line):
                _store(ref, i, j, valid, cell)


def _spread_kernel(*refs, grids: Grids, valid):
    *cells_refs, rows_ref, features_ref = refs
    rows, columns = len(grids.rows), grids.columns
    dtype = rows_ref.dtype
    atoms = grids.atoms(
        [
            [[_load(ref, i, j, valid, dtype) for j in range(g)] for i in range(g)]
            for ref, g in zip(cells_refs, grids.bins, strict=True)
        ]
    )

    def write_row(h, _):
        by_row = [rows_ref[h, i] for i in range(rows)]
        sums = [
            functools.reduce(
                jnp.add,
                [weight * line[j] for weight, line in zip(by_row, atoms, strict=True)],
            )
            for j in range(len(columns))
        ]
        for w in range(grids.width):
            _store(features_ref, h, w, valid, _weighted(sums, columns[:, w]))

    jax.lax.fori_loop(0, grids.height, write_row, None)


def _load(ref, i, j, valid, dtype):
    return plt.load(_at(ref, i, j), mask=valid, other=0).astype(dtype)


def _store(ref, i, j, valid, value):
    plt.store(_at(ref, i, j), value.astype(ref.dtype), mask=valid)


def _at(ref, i, j):
    """The channels at one position; the interpreter takes traced indices alone."""
    return ref.at[jnp.full((), i, jnp.int32), jnp.full((), j, jnp.int32)]


def _weighted(values: list, weights) -> Float[Array, "channels"]:
    """The sum of values times weights known beforehand, without those that are zero."""
    parts = [
        value * float(weight)
        for value, weight in zip(values, weights, strict=True)
        if weight
    ]
    return functools.reduce(jnp.add, parts)


def _call(kernel, grids: Grids, arrays, shapes, *, interpret: bool, channels: int):
    """Runs a kernel on B _ _ C arrays wherever they lie, and under vmap."""
    dtype = arrays[0].dtype
    rows = jnp.asarray(grids.rows.T, jnp.promote_types(dtype, jnp.float32))  # H atoms

    def here(*arrays):
        """On one device: a program for each block of channels of each example."""
        *maps, rows = arrays
        B, _, _, C = maps[0].shape
        block = lambda shape: pl.BlockSpec(
            (None, *shape[1:3], channels), lambda c, b: (b, 0, 0, c)
        )

        def masked(*refs):
            first = pl.program_id(0) * channels
            kernel(*refs, grids=grids, valid=first + jnp.arange(channels) < C)

        run = pl.pallas_call(
            masked,
            grid=(pl.cdiv(C, channels), B),  # neighbours in memory run together
            in_specs=[
                *(block(x.shape) for x in maps),
                pl.BlockSpec(rows.shape, lambda c, b: (0, 0)),
            ],
            out_specs=[block(shape) for shape in shapes],
            out_shape=[
                jax.ShapeDtypeStruct((B, *shape[1:3], C), dtype) for shape in shapes
            ],
            compiler_params=plt.CompilerParams(num_warps=WARPS, num_stages=1),
            interpret=interpret,
            name=f"pyramid{kernel.__name__}",
        )
        return tuple(run(*maps, rows))

    partitioned = _partitioned(here, len(arrays), len(shapes))

    @custom_vmap
    def anywhere(*arrays):
        return partitioned(*arrays, rows)

    @anywhere.def_vmap
    def folded(size, batched, *arrays):
        """Examples of all batches make one batch."""
        arrays = [
            x if split else jnp.broadcast_to(x, (size, *x.shape))
            for x, split in zip(arrays, batched, strict=True)
        ]
        found = anywhere(*(x.reshape(-1, *x.shape[2:]) for x in arrays))
        found = tuple(x.reshape(size, -1, *x.shape[1:]) for x in found)
        return found, (True,) * len(found)

    return anywhere(*arrays)


def _partitioned(here, inputs: int, outputs: int):
    """`here` with examples and channels on the devices that hold them.

    Without it the compiler, which cannot look into a kernel, would gather the batch.
    """

    def partition(mesh, arguments, results):
        spec = (*arguments[0].sharding.spec, None, None, None, None)
        split = NamedSharding(mesh, P(spec[0], None, None, spec[3]))
        whole = NamedSharding(mesh, P())
        return mesh, here, (split,) * len(results), (*(split,) * inputs, whole)

    axes = [f"b y{i} x{i} c" for i in range(inputs + outputs)]
    rule = f"{', '.join(axes[:inputs])}, h a -> {', '.join(axes[inputs:])}"
    factors = dict.fromkeys(re.findall(r"\w+", rule))  # as they appear
    operation = custom_partitioning(here)
    operation.def_partition(
        partition,
        sharding_rule=rule,
        need_replication_factors=tuple(f for f in factors if f not in ("b", "c")),
    )
    return operation
