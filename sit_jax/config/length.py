"""The length of a run that exists already: kept with --hours, and extended if the run is finished."""

import pathlib

import ml_collections

from sit_jax.common.console import say
from sit_jax.config.workdir import newest_step, saved_run


def keep_length(config: ml_collections.ConfigDict, workdir: pathlib.Path, hours: float | None) -> bool:
    """Settles the length of a resolved configuration with the run in `workdir`; returns whether there is a run.

    With `hours`, the run keeps its number of steps. A run that is finished is extended if the configuration asks for
    more steps: the former length is added to `config.extensions`, and the learning rate warms up and decays once more
    (see `train.optimizer`). A run that was extended keeps its extensions.
    """
    saved = saved_run(workdir)
    if saved is None:
        return False
    extensions, steps = tuple(saved["extensions"]), saved["steps"]
    if hours is not None:
        config.steps, config.optim.warmup_steps = steps, saved["optim"]["warmup_steps"]
        say(f"--hours: the run in {workdir} keeps its {steps} steps")
    elif config.steps > steps and newest_step(workdir) >= steps:
        extensions = (*extensions, steps)
        say(
            f"the finished run of {steps} steps goes on to step {config.steps} from its weights; the learning rate "
            "warms up and decays once more"
        )
    if extensions:
        config.extensions, config.optim.warmup_steps = extensions, saved["optim"]["warmup_steps"]
    return True
