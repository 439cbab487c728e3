"""The device mesh: the batch is sharded over all devices, parameters are sharded by their shapes only."""

import math
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sit_jax.common.errors import InputError

AXES = ("slice", "data", "fsdp")
BATCH = P(AXES)
SMALL = 2**16  # elements; sharding smaller arrays costs more latency than it saves memory


def make_mesh(
    data: int = -1, fsdp: int = 1, devices: list[jax.Device] | None = None, slices: int | None = None
) -> Mesh:
    """Makes the mesh with the axes `slice`, `data` and `fsdp`; -1 for `data` or `fsdp` takes the remaining devices.

    `slices` is the number of device groups with fast links inside. Each group holds all parameters, so that only
    gradients and embeddings pass between groups. None: one group per TPU slice; on other devices a single group.
    Raises InputError if the axes do not multiply to the number of devices, or if a group would span TPU slices.
    """
    devices = sorted(devices or jax.devices(), key=lambda d: (getattr(d, "slice_index", 0), d.process_index, d.id))
    # GPUs may have a slice_index too, but it does not limit groups: a group that spans nodes is slow, but works.
    found = len({getattr(device, "slice_index", 0) for device in devices if device.platform == "tpu"}) or 1
    groups = found if slices is None else slices
    if groups < 1 or len(devices) % groups or groups % found:
        multiple = f" and be a multiple of their {found} TPU slices" if found > 1 else ""
        raise InputError(
            f"mesh.slices={slices} must divide the {len(devices)} devices here{multiple}; "
            "leave it out to take the slices that are there"
        )
    size = len(devices) // groups
    if data == -1 and fsdp > 0:
        data = size // fsdp
    elif fsdp == -1 and data > 0:
        fsdp = size // data
    if data * fsdp != size or data < 1:
        here = f"the {len(devices)} devices here" + (f" in {groups} slices" if groups > 1 else "")
        raise InputError(
            f"mesh.data={data} x mesh.fsdp={fsdp} does not give {here}; set one of them to -1 to take the rest"
        )
    # Neighbours in the mesh are neighbours in the torus of a TPU slice; other devices keep their order.
    arrays = [
        mesh_utils.create_device_mesh((data, fsdp), devices[i * size : (i + 1) * size], allow_split_physical_axes=True)
        for i in range(groups)
    ]
    # Auto axes: with explicit axes, the default, the similarity matrix of NT-Xent raises a sharding error.
    return Mesh(np.stack(arrays), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Returns the rows of the global batch on the devices of this process, ascending, int64 [n].

    They need not be consecutive: the mesh follows the torus of a TPU slice, not its hosts.
    """
    indices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    rows = np.arange(batch_size)
    return np.unique(np.concatenate([rows[index] for index in indices]))


def put_batch(local: np.ndarray, rows: np.ndarray, batch_size: int, mesh: Mesh) -> jax.Array:
    """Makes the global array [batch_size, ...] from `local`, this process's `rows` of the batch (see `local_rows`)."""

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        first = np.searchsorted(rows, index[0].start or 0)
        return local[first : first + len(range(*index[0].indices(batch_size)))]

    shape = (batch_size, *local.shape[1:])
    return jax.make_array_from_callback(shape, batch_sharding(mesh), part)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays with the batch as first axis: over all devices."""
    return NamedSharding(mesh, BATCH)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays that each device holds whole."""
    return NamedSharding(mesh, P())


def state_shardings(state: Any, mesh: Mesh | AbstractMesh, small: int = SMALL) -> Any:
    """Returns the sharding of each array of a state: over `fsdp` along its largest divisible axis.

    Leaves of `state` are arrays or shapes. Arrays of fewer than `small` elements are replicated. Only shapes count, so
    parameters, optimizer moments and averages of the same shape have the same sharding.
    """

    def shard(leaf: jax.ShapeDtypeStruct | jax.Array) -> NamedSharding:
        ways = mesh.shape["fsdp"]
        divisible = [axis for axis, n in enumerate(leaf.shape) if n % ways == 0]
        if ways == 1 or not divisible or np.prod(leaf.shape) < small:
            return NamedSharding(mesh, P())
        axis = max(divisible, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, P(*(None,) * axis, "fsdp"))

    return jax.tree.map(shard, state)


def chip_bytes(tree: object) -> int:
    """Returns the bytes per device of a tree of shapes with shardings."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def pin_batch(x: jax.Array, axis: int = 0) -> jax.Array:
    """Keeps an axis of activations sharded over all devices of the current mesh; without a mesh, does nothing.

    Without this constraint, the compiler gathers activations over `fsdp` instead of weights.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, P(*(None,) * axis, AXES))


def keep_row_major(x: jax.Array) -> jax.Array:
    """Keeps the last axis of activations [V, ...] innermost in GPU memory; on other devices, does nothing.

    Between unrolled layers, XLA would make the batch axis innermost and transpose the activations for each product.
    """

    def constrain(x: jax.Array) -> jax.Array:
        return with_layout_constraint(x, Layout(tuple(range(x.ndim))))

    def on_gpu(x: jax.Array) -> jax.Array:
        if jax.sharding.get_abstract_mesh().size <= 1:  # 0 without a mesh
            return constrain(x)
        # The compiler cannot partition this constraint and would gather x, so each device constrains its own rows.
        return jax.shard_map(constrain, in_specs=BATCH, out_specs=BATCH)(x)

    return jax.lax.platform_dependent(x, cuda=on_gpu, rocm=on_gpu, default=lambda x: x)


def gather(parameter: jax.Array) -> jax.Array:
    """Replicates a parameter on all devices of the current mesh; without a mesh, does nothing."""
    if jax.sharding.get_abstract_mesh().empty:
        return parameter
    return jax.lax.with_sharding_constraint(parameter, P())


def pin_state(state: Any) -> Any:
    """Shards gradients like the parameters of the same shape; without a mesh, does nothing."""
    mesh = jax.sharding.get_abstract_mesh()
    return state if mesh.empty else jax.lax.with_sharding_constraint(state, state_shardings(state, mesh))
