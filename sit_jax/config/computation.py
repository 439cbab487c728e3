"""How a model is computed: fills in the open values of a configuration for the device of the step."""

import re

import jax
import ml_collections

from sit_jax.common.errors import InputError
from sit_jax.model.fast import matrix_unit
from sit_jax.model.sizes import token_count

# Keys of the section `model` that change how the model is computed; the result changes only by rounding.
HOW = ("attention", "remat", "unroll", "halves")
CUDNN_CAPABILITY = (8, 0)  # cuDNN's attention needs a GPU of this compute capability


def choose(config: ml_collections.ConfigDict, device: jax.Device) -> None:
    """Fills in the open values ("auto" or None) of `dtype`, `products` and the HOW keys for a step on `device`."""
    model = config.model
    dtype = resolved_dtype(config, device)
    if model.products == "auto":  # an explicit dtype also sets the products
        unit = config.dtype == "auto" and device.platform == "cpu" and matrix_unit.is_here()
        model.products = "bfloat16" if unit else dtype
    config.dtype = dtype
    if model.attention == "auto":
        model.attention = "xla" if why_not_cudnn(config, device) else "cudnn"
    if model.unroll is None:  # on a TPU, a loop over layers is as fast and compiles much faster
        model.unroll = device.platform in ("cpu", "gpu") and not model.remat
    if model.halves is None:
        model.halves = device.platform == "cpu" and model.unroll


def reopen(config: ml_collections.ConfigDict) -> None:
    """Resets the choices made on another machine, so that `choose` makes them for the device here."""
    config.model.update(attention="auto", unroll=None, halves=None)


def resolved_dtype(config: ml_collections.ConfigDict, device: jax.Device) -> str:
    """Returns the type of the computation on a device."""
    return config.dtype if config.dtype != "auto" else "float32" if device.platform == "cpu" else "bfloat16"


def check(config: ml_collections.ConfigDict, device: jax.Device) -> None:
    """Raises InputError if the device cannot compute as configured, or if the values contradict each other."""
    if config.model.products == "float32" and resolved_dtype(config, device) == "bfloat16":
        raise InputError("model.products=float32 needs float32 everywhere; add dtype=float32")
    reason = why_not_cudnn(config, device)
    if config.model.attention == "cudnn" and reason:
        raise InputError(f"model.attention=cudnn needs {reason}; use model.attention=auto")


def why_not_cudnn(config: ml_collections.ConfigDict, device: jax.Device) -> str:
    """Returns the first unmet requirement of cuDNN's attention as text; empty if all are met."""
    version = re.fullmatch(r"(\d+)\.(\d+)", str(getattr(device, "compute_capability", "")))  # AMD: a name
    if device.platform != "gpu" or not version or tuple(map(int, version.groups())) < CUDNN_CAPABILITY:
        return "an NVIDIA GPU of compute capability 8.0 or higher"
    if config.dtype == "float32":
        return "bfloat16, and dtype is float32"
    tokens = token_count(config.model.image_size, config.model.patch_size)
    return f"an even number of tokens in training, and there are {tokens}" if tokens % 2 else ""
