"""The output of a benchmark: rates, shares, and the text for the screen."""

from collections.abc import Mapping
from typing import Any

import ml_collections

from sit_jax.timing.parts import PARTS


def describe(config: ml_collections.ConfigDict, num_images: int) -> dict[str, Any]:
    """Returns the settings of the measured step."""
    model = config.model
    return {
        "model": f"{model.size}/{model.patch_size}, {model.image_size} px",
        "batch_size": config.batch_size,
        "microbatches": config.microbatches,
        "dtype": config.dtype,
        "products": model.products,
        "remat": model.remat,
        "attention": model.attention,
        "source": config.data.source,
        "num_images": num_images,
    }


def rates(result: Mapping[str, Any], batch_size: int) -> dict[str, float]:
    """Returns images per second, FLOP/s of the model, and the shares of the machine's ceilings."""
    seconds, devices = result["step"]["median"], result["machine"]["devices"]
    flops = result["compiled"]["model_flops"] / seconds
    moved = result["compiled"]["memory_traffic_bytes"] / seconds
    return {
        "images_per_second": batch_size / seconds,
        "model_flops_per_second": flops,
        "share_of_matrix_ceiling": flops / result["ceilings"]["flops_per_second"] / devices,
        "memory_bytes_per_second": moved,
        "share_of_memory_ceiling": moved / result["ceilings"]["bytes_per_second"] / devices,
    }


def part_shares(parts: Mapping[str, Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    """Returns (time of the part alone, time saved without the part) for each part, as shares of the whole step."""
    median = {name: time["median"] for name, time in parts.items()}
    saved = {name: median["whole"] - median[f"without {name}"] for name in PARTS}
    # The step without the forward pass has no backward pass either.
    saved["forward"] -= saved["backward"]
    return {name: (median[name] / median["whole"], saved[name] / median["whole"]) for name in PARTS}


def text(result: Mapping[str, Any]) -> str:
    """Returns the report for the screen."""
    config, machine, compiled, rates = (result[name] for name in ("config", "machine", "compiled", "rates"))
    ceilings, memory = result["ceilings"], result["memory"]
    device = memory["device_peak"] or compiled["program_bytes"]
    lines = [
        f"{config['model']}, batch {config['batch_size']}, {config['dtype']} (dense products: {config['products']}), "
        f"{config['num_images']} images from {config['source']}",
        f"{machine['devices']} x {machine['device']} ({machine['processor']}, {machine['cores']} cores, "
        f"load {machine['load']}), jax {machine['versions']['jax']}",
        "",
        f"step                {spread(result['step'])}, {rates['images_per_second']:.1f} source images/s",
        f"model FLOPs         {giga(compiled['model_flops'])} by formula",
        f"compiled FLOPs      {giga(compiled['compiled_flops'])} with the views",
        f"achieved            {giga(rates['model_flops_per_second'])}FLOP/s, {rates['share_of_matrix_ceiling']:.1%} "
        f"of the {giga(ceilings['flops_per_second'])}FLOP/s of a large product",
        f"memory traffic      {giga(rates['memory_bytes_per_second'])}B/s, {rates['share_of_memory_ceiling']:.1%} "
        f"of the {giga(ceilings['bytes_per_second'])}B/s of a copy",
        f"peak memory         host {giga(memory['host_peak'])}B, device {giga(device)}B"
        + ("" if memory["device_peak"] else " (arguments and temporaries of the step)"),
        f"start-up            {compiled['startup_seconds']:.1f} s to the end of the first step, including tracing "
        f"{compiled['trace_seconds']:.1f} s and compiling {compiled['compile_seconds']:.1f} s",
    ]
    if result["reading"]:
        reading = result["reading"]
        lines.append(
            f"with reading        {reading['images_per_second']:.1f} source images/s, waiting for data "
            f"{reading['data_wait_fraction']:.2%} of the time"
        )
    return "\n".join(lines + (parts_text(result["parts"]) if result["parts"] else []))


def parts_text(parts: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Returns the lines of the table of parts for the screen."""
    lines = ["", f"{'part':14}{'alone':>28}{'share':>8}{'saved without it':>19}"]
    for name, (alone, saved) in part_shares(parts).items():
        lines.append(f"{name:14}{spread(parts[name]):>28}{alone:>8.1%}{saved:>19.1%}")
    return [*lines, f"{'whole':14}{spread(parts['whole']):>28}"]


def spread(time: Mapping[str, float]) -> str:
    """Formats a time as "12.3 ms (12.1 to 13.0)"."""
    scale, unit = (1e3, "ms") if time["median"] < 1 else (1, "s")
    return f"{time['median'] * scale:.2f} {unit} ({time['least'] * scale:.2f} to {time['most'] * scale:.2f})"


def giga(number: float) -> str:
    """Formats a number in units of 10^9 or 10^12: "12.3 G"."""
    return f"{number / 1e9:.1f} G" if number < 1e12 else f"{number / 1e12:.1f} T"
