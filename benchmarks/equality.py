"""Checks that sit_jax and the peers are the same model with the same losses, on the same weights and views."""

from typing import Any

import numpy as np

TASKS = ("reconstruction", "rotation", "contrastive")
TOLERANCE = 1e-4  # relative, in float32
IMAGES = 8  # number of images compared


def write_exchange(path: str, config: Any, params: dict, images: np.ndarray) -> dict[str, float]:
    """Writes the weights `params` of sit_jax and the views of a few images to a .npz file, in float32.

    Returns the three losses and their weighted sum `loss` for these weights and views, without stochastic depth.
    """
    import jax

    from sit_jax.parallel.microbatches import stacked
    from sit_jax.train.state import make_training
    from sit_jax.train.step import combine, forward
    from sit_jax.views import make_views

    config = config.copy_and_resolve_references()
    config.update(dtype="float32")
    config.model.update(attention="xla", products="float32")
    training = make_training(config)

    @jax.jit
    def run(params: dict, images: jax.Array) -> tuple:
        views = make_views(jax.random.key(0), images, config)
        outputs = forward(params, training, views, None, config)[0]
        return views, combine(stacked(outputs), params, training, config)[1][0]

    with jax.default_matmul_precision("highest"):
        views, losses = jax.device_get(run(params, images[:IMAGES]))
    arrays = {f"params/{name}": np.asarray(value) for name, value in flatten(jax.device_get(params)).items()}
    masks = {f"masks/{name}": mask for name, mask in views.masks.items()}
    np.savez(path, clean=views.clean, corrupted=views.corrupted, rotation=views.rotation, **masks, **arrays)
    return {name: float(losses[name]) for name in ("loss", *TASKS)}


def flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    """Returns the leaves of nested dictionaries by path, such as `model/encoder/tokens`."""
    leaves = {}
    for name, value in tree.items():
        leaves |= flatten(value, f"{prefix}{name}/") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return leaves


def losses_of_exchange(path: str, config: dict) -> dict[str, float]:
    """Returns the losses of the PyTorch model with the weights and views in the file, in float32 on CPU."""
    import torch

    from benchmarks.torch_model import SiT, load_jax_params, losses
    from benchmarks.torch_views import Views

    with np.load(path) as file:
        arrays = dict(file)
    model = SiT(config)
    load_jax_params(model, {name[7:]: value for name, value in arrays.items() if name.startswith("params/")})
    masks = {name[6:]: torch.from_numpy(value) for name, value in arrays.items() if name.startswith("masks/")}
    clean, corrupted = torch.from_numpy(arrays["clean"]), torch.from_numpy(arrays["corrupted"])
    views = Views(clean, corrupted, torch.from_numpy(arrays["rotation"]).long(), masks)
    with torch.no_grad():
        parts = losses(model(views.corrupted), views, model.log_var, config)
    return {name: parts[name].item() for name in ("loss", *TASKS)}


def largest_difference(ours: dict, theirs: dict) -> float:
    """Returns the largest relative difference between the losses of two answers to `setup`.

    Raises AssertionError if it exceeds 1e-4, or if the models have different numbers of parameters.
    """
    if ours["parameters"] != theirs["parameters"]:
        raise AssertionError(f"{ours['parameters']} parameters in sit_jax, {theirs['parameters']} in the peer")
    differences = {name: abs(theirs["losses"][name] / value - 1) for name, value in ours["losses"].items()}
    for name, difference in differences.items():
        if not difference <= TOLERANCE:
            raise AssertionError(f"{name} is {ours['losses'][name]} in sit_jax, {theirs['losses'][name]} in the peer")
    return max(differences.values())
