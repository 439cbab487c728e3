"""Where arrays live: a mesh of devices, the batch over all of it, parameters sharded by their shapes alone."""

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
SMALL = 2**16  # elements; sharding less than this costs more in latency than it saves in memory


def make_mesh(
    data: int = -1, fsdp: int = 1, devices: list[jax.Device] | None = None, slices: int | None = None
) -> Mesh:
    """Makes the mesh with the axes `slice`, `data` and `fsdp`; -1 for `data` or `fsdp` takes the rest of the devices.

    `slices` groups of devices, each with fast links of its own, hold the whole parameters each, so that only gradients
    and embeddings pass between them; None takes the TPU slices that are there, and one group elsewhere. Raises
    InputError if the axes do not multiply to the number of devices, or if a group would span TPU slices.
    """
    devices = sorted(devices or jax.devices(), key=lambda d: (getattr(d, "slice_index", 0), d.process_index, d.id))
    # Elsewhere a slice_index, which GPUs may have too, is no limit: a group that spans nodes is slow, but works.
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
    # Neighbours in the mesh are neighbours in the torus of a TPU slice; elsewhere the order is kept.
    arrays = [
        mesh_utils.create_device_mesh((data, fsdp), devices[i * size : (i + 1) * size], allow_split_physical_axes=True)
        for i in range(groups)
    ]
    # Auto axes: with the default, explicit ones, the similarity matrix of NT-Xent is a sharding error.
    return Mesh(np.stack(arrays), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Returns the rows of the global batch that the devices of this process hold, ascending, int64 [rows].

    They need not be consecutive: a mesh follows the torus of a TPU slice, not its hosts.
    """
    indices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    rows = np.arange(batch_size)
    return np.unique(np.concatenate([rows[index] for index in indices]))


def put_batch(local: np.ndarray, rows: np.ndarray, batch_size: int, mesh: Mesh) -> jax.Array:
    """Makes the global array [batch_size, ...] of a batch of which this process holds `rows`, those of `local_rows`."""

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        first = np.searchsorted(rows, index[0].start or 0)
        return local[first : first + len(range(*index[0].indices(batch_size)))]

    shape = (batch_size, *local.shape[1:])
    return jax.make_array_from_callback(shape, batch_sharding(mesh), part)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays whose first axis is the batch: over all devices."""
    return NamedSharding(mesh, BATCH)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, P())


def state_shardings(state: Any, mesh: Mesh | AbstractMesh, small: int = SMALL) -> Any:
    """Returns the sharding of each array of a state, given as shapes: over `fsdp` along its largest divisible axis.

    Arrays of fewer than `small` elements stay whole. The rule reads shapes, so parameters, optimizer moments and
    averages of one shape lie alike.
    """

    def shard(leaf: jax.ShapeDtypeStruct | jax.Array) -> NamedSharding:
        ways = mesh.shape["fsdp"]
        divisible = [axis for axis, n in enumerate(leaf.shape) if n % ways == 0]
        if ways == 1 or not divisible or np.prod(leaf.shape) < small:
            return NamedSharding(mesh, P())
        axis = max(divisible, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, P(*(None,) * axis, "fsdp"))

    return jax.tree.map(shard, state)


def pin_batch(x: jax.Array, axis: int = 0) -> jax.Array:
    """Keeps an axis of activations on all devices of the current mesh; without a mesh, returns them as they are.

    Without this pin the compiler gathers activations over `fsdp` instead of weights.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, P(*(None,) * axis, AXES))


def keep_row_major(x: jax.Array) -> jax.Array:
    """Keeps the last axis of activations [V, ...] innermost in the memory of a GPU; elsewhere, returns them as given.

    Between unrolled layers, XLA would lay out the batch innermost there, and turn all for each product.
    """

    def constrain(x: jax.Array) -> jax.Array:
        return with_layout_constraint(x, Layout(tuple(range(x.ndim))))

    def on_gpu(x: jax.Array) -> jax.Array:
        if jax.sharding.get_abstract_mesh().size <= 1:  # 0 without a mesh
            return constrain(x)
        # The compiler cannot share out the constraint, and would gather x: each device has one for its own rows.
        return jax.shard_map(constrain, in_specs=BATCH, out_specs=BATCH)(x)

    return jax.lax.platform_dependent(x, cuda=on_gpu, rocm=on_gpu, default=lambda x: x)


def gather(parameter: jax.Array) -> jax.Array:
    """Keeps a parameter whole on each device of the current mesh; without a mesh, returns it as it is."""
    if jax.sharding.get_abstract_mesh().empty:
        return parameter
    return jax.lax.with_sharding_constraint(parameter, P())


def pin_state(state: Any) -> Any:
    """Keeps gradients where the parameters of the same shape are; without a mesh, returns them as they are."""
    mesh = jax.sharding.get_abstract_mesh()
    return state if mesh.empty else jax.lax.with_sharding_constraint(state, state_shardings(state, mesh))
