"""Checkpoints by orbax under `WORKDIR/checkpoints/<step>/`: the latest ones and the best, saved in the background."""

import itertools
import pathlib

import jax
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers as policies

from sit_jax.errors import InputError
from sit_jax.train.state import TrainState


def make_manager(workdir: pathlib.Path, keep_latest: int, keep_best: int) -> ocp.CheckpointManager:
    """Opens the checkpoints of a work directory; the best are those of the lowest `eval/loss`.

    `eval/loss` needs no labels: choosing by an accuracy on test images would be selection on the test set.
    """
    keep: list[policies.PreservationPolicy] = [policies.LatestN(keep_latest)]
    if keep_best:
        keep.append(policies.BestN(get_metric_fn=goodness, n=keep_best, keep_checkpoints_without_metrics=False))
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy(keep),
        best_fn=goodness,  # without it orbax does not write the metrics, and a resumed run forgets which was best
        cleanup_tmp_directories=True,
    )
    return ocp.CheckpointManager((workdir / "checkpoints").absolute(), options=options)


def goodness(metrics: dict[str, float]) -> float:
    """Returns what the best checkpoint has the most of."""
    return -metrics["eval/loss"]


def save(manager: ocp.CheckpointManager, state: TrainState, step: int, eval_metrics: dict[str, float] | None) -> None:
    """Starts to save the state of `step`; returns when its arrays are copied, before they are on disk."""
    metrics = {"eval/loss": eval_metrics["eval/loss"]} if eval_metrics else None
    arguments = ocp.args.Composite(state=ocp.args.StandardSave(to_tree(state)))
    if not manager.save(step, args=arguments, metrics=metrics):  # orbax skips a step silently if a later one is there
        raise RuntimeError(f"checkpoint {step} was not saved: {manager.directory} has {manager.all_steps()}")


def restore_latest(manager: ocp.CheckpointManager, abstract: TrainState) -> tuple[TrainState, int] | None:
    """Restores the newest checkpoint that can be read, in the shardings of `abstract`; None where there is none.

    Damaged ones are named and set aside as `damaged-STEP-N`. Raises InputError if the newest is of another model, with
    the names and shapes that differ, or if there are checkpoints and all of them are damaged.
    """
    steps, damaged = sorted(manager.all_steps(), reverse=True), []
    for step in steps:
        try:
            check_fits(manager, step, abstract)
            target = ocp.args.StandardRestore(to_tree(abstract))
            state = from_tree(manager.restore(step, args=ocp.args.Composite(state=target)).state)
        except InputError:
            raise
        except Exception as error:  # damage shows as ValueError, KeyError, JSONDecodeError and bare Exception
            logging.error("checkpoint %d is damaged, trying the one before: %s", step, str(error)[:200].splitlines()[0])
            damaged.append(step)
            continue
        set_aside(manager, damaged)
        return state, step
    if steps:
        raise InputError(f"none of the checkpoints {steps} in {manager.directory} can be read; move that folder away")
    return None


def check_fits(manager: ocp.CheckpointManager, step: int, abstract: TrainState) -> None:
    """Raises InputError, with names and shapes, if a checkpoint holds other parameters than `abstract`."""
    check_shapes(
        manager.directory / str(step) / "state", saved_shapes(manager.directory, step)["params"], abstract.params
    )


def saved_shapes(directory: pathlib.Path, step: int) -> dict:
    """Returns the tree of a checkpoint, with the shapes of its arrays at the leaves."""
    return ocp.StandardCheckpointer().metadata(directory / str(step) / "state").item_metadata.tree


def check_shapes(path: pathlib.Path, saved: dict, wanted: dict) -> None:
    """Raises InputError, with a table of names and shapes, unless both trees of parameters hold the same arrays."""
    in_file, in_model = shapes_by_name(saved), shapes_by_name(wanted)
    differing = [name for name in sorted(in_file.keys() | in_model.keys()) if in_file.get(name) != in_model.get(name)]
    if differing:
        rows = [("array", "in the checkpoint", "in the model")]
        rows += [(name, str(in_file.get(name, "absent")), str(in_model.get(name, "absent"))) for name in differing]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
        raise InputError(
            f"{path} is of another model than its configuration says, {len(differing)} arrays differ; "
            f"choose another --workdir\n{table}"
        )


def shapes_by_name(tree: dict) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a nested dictionary of arrays by their joined names."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda leaf: hasattr(leaf, "shape"))
    return {"/".join(key.key for key in path): tuple(leaf.shape) for path, leaf in leaves}


def set_aside(manager: ocp.CheckpointManager, damaged: list[int]) -> None:
    """Renames damaged checkpoints, so that the steps can be saved anew; nothing is deleted."""
    if not damaged:
        return
    if jax.process_index() == 0:
        for step in damaged:
            path = manager.directory / str(step)
            free = next(n for n in itertools.count() if not (manager.directory / f"damaged-{step}-{n}").exists())
            path.rename(manager.directory / f"damaged-{step}-{free}")
    manager.reload()


def was_evaluated(manager: ocp.CheckpointManager, step: int) -> bool:
    """Tells whether the run had evaluated `step` when it saved it; the same answer on all hosts."""
    return bool(manager.metrics(step))


def to_tree(state: TrainState) -> dict:
    """Returns the state as a dictionary with the items step, params, opt_state and, where there is one, ema."""
    tree = {"step": state.step, "params": state.params, "opt_state": state.opt_state}
    return tree if state.ema is None else tree | {"ema": state.ema}


def from_tree(tree: dict) -> TrainState:
    """Returns the state of such a dictionary."""
    return TrainState(tree["step"], tree["params"], tree["opt_state"], tree.get("ema"))
