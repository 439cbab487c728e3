"""How a model is computed: what a configuration leaves open is chosen here, by the device that the step is for."""

import re

import jax
import ml_collections

from sit_jax.common.errors import InputError
from sit_jax.model.fast import matrix_unit
from sit_jax.model.sizes import token_count

# Keys of the section `model` that change how the same function is computed, and its result by no more than rounding.
HOW = ("attention", "remat", "unroll", "halves")
CUDNN_CAPABILITY = (8, 0)  # cuDNN's attention needs a GPU of this compute capability


def choose(config: ml_collections.ConfigDict, device: jax.Device) -> None:
    """Sets what is open ("auto" or None) of `dtype`, `products` and the keys in HOW, for a step on such a device."""
    model = config.model
    dtype = resolved_dtype(config, device)
    if model.products == "auto":  # whoever asks for float32 gets it all through
        unit = config.dtype == "auto" and device.platform == "cpu" and matrix_unit.is_here()
        model.products = "bfloat16" if unit else dtype
    config.dtype = dtype
    if model.attention == "auto":
        model.attention = "xla" if why_not_cudnn(config, device) else "cudnn"
    if model.unroll is None:  # on a TPU, the loop over layers costs nothing and compiles in a fraction of the time
        model.unroll = device.platform in ("cpu", "gpu") and not model.remat
    if model.halves is None:
        model.halves = device.platform == "cpu" and model.unroll


def reopen(config: ml_collections.ConfigDict) -> None:
    """Opens the choices of another machine again, so that `choose` makes them for the device here."""
    config.model.update(attention="auto", unroll=None, halves=None)


def resolved_dtype(config: ml_collections.ConfigDict, device: jax.Device) -> str:
    """Returns the type of the computation on a device."""
    return config.dtype if config.dtype != "auto" else "float32" if device.platform == "cpu" else "bfloat16"


def check(config: ml_collections.ConfigDict, device: jax.Device) -> None:
    """Raises InputError if the configuration insists on what the device cannot do, or contradicts itself."""
    if config.model.products == "float32" and resolved_dtype(config, device) == "bfloat16":
        raise InputError("model.products=float32 needs float32 all through; add dtype=float32")
    reason = why_not_cudnn(config, device)
    if config.model.attention == "cudnn" and reason:
        raise InputError(f"model.attention=cudnn needs {reason}; use model.attention=auto")


def why_not_cudnn(config: ml_collections.ConfigDict, device: jax.Device) -> str:
    """Returns what cuDNN's attention needs that is not there, empty where nothing is missing."""
    version = re.fullmatch(r"(\d+)\.(\d+)", str(getattr(device, "compute_capability", "")))  # AMD has names instead
    if device.platform != "gpu" or not version or tuple(map(int, version.groups())) < CUDNN_CAPABILITY:
        return "an NVIDIA GPU of compute capability 8.0 or higher"
    if config.dtype == "float32":
        return "bfloat16, and dtype is float32"
    tokens = token_count(config.model.image_size, config.model.patch_size)
    return f"an even number of tokens in training, and there are {tokens}" if tokens % 2 else ""
