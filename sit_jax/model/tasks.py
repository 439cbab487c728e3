"""The three tasks."""

import ml_collections

TASKS = ("reconstruction", "rotation", "contrastive")
# A cross-entropy has the likelihood exp(-s), the L1 distance the Laplace likelihood exp(-s / 2), of a log variance s.
LIKELIHOOD_SCALE = {"reconstruction": 0.5, "rotation": 1.0, "contrastive": 1.0}


def tasks_on(config: ml_collections.ConfigDict) -> list[str]:
    """Returns the tasks that are not switched off by their weight; `config` is the section `loss`."""
    return [task for task in TASKS if config.weights[task] == "learned" or float(config.weights[task])]
