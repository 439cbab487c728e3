"""Measures a step on this machine; `sit-jax bench` is `python -m sit_jax.bench`.

  sit-jax bench --config=folder --random_images=1000 --out=bench.json

Measures the training step on the devices of this machine: source images per second, the time of each part, compilation,
and memory. Compares the step with the ceilings of the machine, which the same run measures. Run it on a quiet machine.
"""

import pathlib
import shlex
import sys
from typing import Any

import jax
import ml_collections
from absl import flags

from sit_jax.common import commands
from sit_jax.common.errors import InputError
from sit_jax.common.files import write_json
from sit_jax.config import checks, cli, resolve
from sit_jax.config.machine import take, this_machine, with_argument
from sit_jax.timing import machine, tables
from sit_jax.timing.clock import measure
from sit_jax.timing.images import open_images
from sit_jax.timing.step import Step
from sit_jax.weights.start import follow


def make_flags(argv: list[str]) -> flags.FlagValues:
    """Returns the flags of the command, with `--config.<key>=value` as in `argv`."""
    values = cli.make_config_flags(argv)
    cli.add_out_flag(values)
    random = "Train on N random images in memory instead of data.source."
    flags.DEFINE_integer("random_images", None, random, lower_bound=1, flag_values=values)
    flags.DEFINE_integer(
        "repeats", 10, "Timed runs of each program.", lower_bound=2, upper_bound=1000, flag_values=values
    )
    flags.DEFINE_boolean("parts", True, "Also time each part of the step.", flag_values=values)
    flags.DEFINE_boolean("reading", True, "Also time the step with reading of its batches.", flag_values=values)
    flags.DEFINE_string("trace", None, "A folder for a TensorBoard profile of three steps.", flag_values=values)
    return values


def bench(config: ml_collections.ConfigDict, values: flags.FlagValues) -> dict[str, Any]:
    """Measures a configuration and returns all figures as plain JSON values; see `sit_jax.timing.tables`."""
    if values.random_images is not None:
        config.data.source = "random"
    config, _ = follow(config, None)
    checks.check_config(config, jax.device_count())
    if values.parts and config.microbatches > 1:
        raise InputError(
            f"microbatches={config.microbatches}: the parts are timed on whole batches only; add --noparts"
        )
    described = machine.describe()
    images = open_images(config, values.random_images)
    config = resolve.resolve(config, len(images))
    step = Step(config, images)
    with jax.set_mesh(step.mesh):
        compiled = step.compile()
        jax.block_until_ready(step.train())
        startup = machine.seconds_since_start()
        times = measure({"step": step.train}, values.repeats)
        result = {
            "config": tables.describe(config, len(images)),
            "machine": described,
            "compiled": compiled | {"startup_seconds": startup},
            "step": times["step"],
            "reading": step.time_reading(values.repeats) if values.reading else None,
            "memory": {"host_peak": machine.peak_host_bytes(), "device_peak": machine.peak_device_bytes()},
            "parts": step.time_parts(values.repeats) if values.parts else None,
        }
        if values.trace:
            with jax.profiler.trace(values.trace):
                jax.block_until_ready([step.train() for _ in range(3)])
    # Last, so that the arrays of the ceilings count neither in the start-up time nor in the memory of the step.
    result["ceilings"] = machine.ceilings(config.model.products, values.repeats)
    return result | {"rates": tables.rates(result, config.batch_size)}


def parse(argv: list[str]) -> tuple[flags.FlagValues, ml_collections.ConfigDict]:
    """Returns the parsed flags and the configuration."""
    values = make_flags(argv)
    return values, cli.parse_config(values, argv, (), __doc__ or "")


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""

    def command(argv: list[str]) -> bool:
        values, config = parse(argv)
        if config.machine == "auto":
            config = take(*this_machine(), lambda added: parse(with_argument(argv, added))[1])
        result = bench(config, values) | {"command": shlex.join(["python", "-m", "sit_jax.bench", *argv[1:]])}
        print(tables.text(result))
        if values.out:
            write_json(pathlib.Path(values.out), result)
        return True

    return commands.run(command, argv, resumes=False)


if __name__ == "__main__":
    commands.end(main(sys.argv))
