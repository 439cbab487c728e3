"""Where arrays live: a mesh of devices, the batch over all of it, parameters sharded by their shapes alone."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sit_jax.errors import InputError

BATCH = P(("data", "fsdp"))
SMALL = 2**16  # elements; sharding less than this costs more in latency than it saves in memory


def make_mesh(data: int = -1, fsdp: int = 1, devices: list[jax.Device] | None = None) -> Mesh:
    """Makes the mesh with the axes `data` and `fsdp`; -1 for one of them takes the rest of the devices.

    Raises InputError if the axes do not multiply to the number of devices.
    """
    devices = devices or jax.devices()
    if data == -1 and fsdp > 0:
        data = len(devices) // fsdp
    elif fsdp == -1 and data > 0:
        fsdp = len(devices) // data
    if data * fsdp != len(devices) or data < 1:
        raise InputError(
            f"mesh.data={data} x mesh.fsdp={fsdp} does not give the {len(devices)} devices here; "
            "set one of them to -1 to take the rest"
        )
    # Auto axes: with the default, explicit ones, the similarity matrix of NT-Xent is a sharding error.
    return Mesh(np.array(devices).reshape(data, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays whose first axis is the batch: over all devices."""
    return NamedSharding(mesh, BATCH)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, P())


def state_shardings(state: object, mesh: Mesh, small: int = SMALL) -> object:
    """Returns the sharding of each array of a state, given as shapes: over `fsdp` along its largest divisible axis.

    Arrays of fewer than `small` elements stay whole. The rule reads shapes, so parameters, optimizer moments and
    averages of one shape lie alike.
    """

    def shard(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        ways = mesh.shape["fsdp"]
        divisible = [axis for axis, n in enumerate(leaf.shape) if n % ways == 0]
        if ways == 1 or not divisible or np.prod(leaf.shape) < small:
            return replicated(mesh)
        axis = max(divisible, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, P(*(None,) * axis, "fsdp"))

    return jax.tree.map(shard, state)


def pin_batch(x: jax.Array) -> jax.Array:
    """Keeps the first axis of activations on all devices of the current mesh; without a mesh, returns them as they are.

    Without this pin the compiler gathers activations over `fsdp` instead of weights.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, BATCH)
