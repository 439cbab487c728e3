"""Checkpoints by orbax under `WORKDIR/checkpoints/<step>/`: the latest ones and the best, saved in the background."""

import pathlib

import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers as policies

from sit_jax.train.state import TrainState


def make_manager(workdir: pathlib.Path, keep_latest: int, keep_best: int) -> ocp.CheckpointManager:
    """Opens the checkpoints of a work directory; the best are those of the lowest `eval/loss`.

    `eval/loss` needs no labels: choosing by an accuracy on test images would be selection on the test set.
    """
    keep: list[policies.PreservationPolicy] = [policies.LatestN(keep_latest)]
    if keep_best:
        best = policies.BestN(
            get_metric_fn=lambda metrics: -metrics["eval/loss"], n=keep_best, keep_checkpoints_without_metrics=False
        )
        keep.append(best)
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy(keep), cleanup_tmp_directories=True
    )
    return ocp.CheckpointManager((workdir / "checkpoints").absolute(), options=options)


def save(manager: ocp.CheckpointManager, state: TrainState, step: int, eval_metrics: dict[str, float] | None) -> None:
    """Starts to save the state of `step`; returns when its arrays are copied, before they are on disk."""
    metrics = {"eval/loss": eval_metrics["eval/loss"]} if eval_metrics else None
    manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(to_tree(state))), metrics=metrics)


def restore_latest(manager: ocp.CheckpointManager, abstract: TrainState) -> tuple[TrainState, int] | None:
    """Restores the newest checkpoint that can be read, in the shardings of `abstract`; None where there is none.

    Names each damaged one. Raises RuntimeError if there are checkpoints and all of them are damaged.
    """
    steps = sorted(manager.all_steps(), reverse=True)
    for step in steps:
        try:
            target = ocp.args.StandardRestore(to_tree(abstract))
            return from_tree(manager.restore(step, args=ocp.args.Composite(state=target)).state), step
        except Exception as error:  # damage shows as ValueError, KeyError, JSONDecodeError and bare Exception
            logging.error("checkpoint %d is damaged, trying the one before: %s", step, str(error).splitlines()[0])
    if steps:
        raise RuntimeError(f"none of the checkpoints {steps} in {manager.directory} can be restored")
    return None


def to_tree(state: TrainState) -> dict:
    """Returns the state as a dictionary with the items step, params, opt_state and, where there is one, ema."""
    tree = {"step": state.step, "params": state.params, "opt_state": state.opt_state}
    return tree if state.ema is None else tree | {"ema": state.ema}


def from_tree(tree: dict) -> TrainState:
    """Returns the state of such a dictionary."""
    return TrainState(tree["step"], tree["params"], tree["opt_state"], tree.get("ema"))
