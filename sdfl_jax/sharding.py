"""Where arrays live: batches split over devices, everything else on all of them."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


def data_mesh(devices=None) -> Mesh:
    """All devices in one row, named `data`."""
    return Mesh(np.array(devices or jax.devices()), ("data",))


def split(mesh: Mesh) -> NamedSharding:
    """The first axis spread over `data`."""
    return NamedSharding(mesh, P("data"))


def everywhere(mesh: Mesh) -> NamedSharding:
    """A whole copy on each device."""
    return NamedSharding(mesh, P())


def to_global(batch: dict, mesh: Mesh) -> dict:
    """Joins every host's part of a batch into arrays that span the mesh."""
    return jax.make_array_from_process_local_data(split(mesh), batch)


def fitting_batch_size(batch_size: int, mesh: Mesh) -> int:
    """The smallest multiple of the number of devices that holds `batch_size`."""
    devices = mesh.shape["data"]
    return -(-batch_size // devices) * devices
