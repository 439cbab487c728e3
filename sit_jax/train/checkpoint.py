"""Orbax checkpoints under `WORKDIR/checkpoints/<step>/`: the latest and the best, saved in the background."""

import errno
import itertools
import json
import math
import os
import pathlib
import shutil

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from sit_jax.common.console import warn
from sit_jax.common.errors import InputError, SaveError
from sit_jax.parallel.checksums import checksums
from sit_jax.parallel.hosts import all_agree, several, wait_for_all
from sit_jax.train.shapes import check_fits
from sit_jax.train.state import TrainState

# A host waits this long for the other hosts to finish a save; then the save has failed.
SAVE_SECONDS = 600
# These metrics choose the best checkpoints. Older versions and runs without the contrastive task save only the loss.
BEHIND = 1e6  # above every loss: checkpoints without progress rank behind checkpoints with progress
BEST = PROGRESS, LOSS = "eval/contrastive_progress", "eval/loss"


class Checkpoints:
    """The checkpoints of a work directory; the best have the highest `eval/contrastive_progress`.

    The metric needs no labels; choosing by test accuracy would be selection on the test set. It orders pairs of runs by
    k-NN accuracy more often correctly than `eval/loss` does (docs/results.md). A classifier has no contrastive task and
    uses `eval/loss`.
    """

    def __init__(self, workdir: pathlib.Path, keep_latest: int, keep_best: int):
        self.directory = (workdir / "checkpoints").absolute()
        self.keep_latest, self.keep_best = keep_latest, keep_best
        self.requested: int | None = None  # the last step requested to be saved
        set_damaged_metrics_aside(self.directory)
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        keep: list[policies.PreservationPolicy] = [policies.LatestN(self.keep_latest)]
        if self.keep_best:
            keep.append(
                policies.BestN(get_metric_fn=goodness, n=self.keep_best, keep_checkpoints_without_metrics=False)
            )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(keep),
            best_fn=goodness,  # without it, orbax writes no metrics, and a resumed run forgets its best checkpoint
            cleanup_tmp_directories=True,
            async_options=ocp.AsyncOptions(timeout_secs=SAVE_SECONDS),
        )
        return ocp.CheckpointManager(self.directory, options=options)

    def steps(self) -> list[int]:
        """Returns the saved steps, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, step: int, eval_metrics: dict[str, float] | None) -> None:
        """Starts to save the state of `step`; returns when its arrays are copied, before they are on disk.

        If a save fails, as on a full disk, it warns, keeps older checkpoints, and the training continues. Raises
        SaveError if there are several hosts and the save fails to start on this host although the disk has room.
        """
        self._settle()
        self.requested = step
        tree = to_tree(state)
        arguments = ocp.args.Composite(state=ocp.args.StandardSave(tree), checksums=ocp.args.JsonSave(checksums(tree)))
        metrics = {name: eval_metrics[name] for name in BEST if name in eval_metrics} if eval_metrics else None
        failure: Exception | None = self._lack_of_room(tree)
        try:
            if not failure and not self._manager.save(step, args=arguments, metrics=metrics):
                raise RuntimeError(f"orbax skipped it: {self.directory} has {self.steps()}")
        except Exception as error:  # a full disk raises OSError, ValueError and others
            if several():  # the other hosts wait inside orbax and cannot be asked; they end without this host
                raise SaveError(f"the checkpoint of step {step} could not be saved: {short_reason(error)}") from error
            failure = error
        self._recover(failure)

    def _lack_of_room(self, tree: dict) -> OSError | None:
        """Returns an error on all hosts if one lacks disk space; orbax itself fails late, with many lines."""
        needed, failure = sum(leaf.nbytes for leaf in jax.tree.leaves(tree)), None
        try:
            disk = shutil.disk_usage(self.directory)
            if disk.free < needed and disk.total:  # some network file systems report zero
                failure = OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: it needs {needed / 1e6:.1f} MB")
        except OSError as error:
            failure = error
        return None if all_agree(failure is None) else failure or OSError("it failed on another host")

    def _settle(self) -> None:
        """Waits for the background save; if it failed, warns and removes its leftovers."""
        failure: Exception | None = None
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            failure = error
        self._recover(failure)

    def _recover(self, failure: Exception | None) -> None:
        """If a save failed on any host, reopens the manager, which removes the leftovers, and warns."""
        if all_agree(failure is None):
            return
        self._manager = self._open()
        if failure is None and jax.process_index() != 0:
            return  # only the failed host and host 0 warn
        newest = max(self.steps(), default=None)
        kept = "there is none yet" if newest is None else f"the newest is of step {newest}"
        reason = "it failed on another host" if failure is None else short_reason(failure)
        warn(f"the checkpoint of step {self.requested} could not be saved ({reason}); older ones are kept: {kept}")

    def close(self) -> None:
        """Waits for the background save, warns if it failed, and ends the threads of orbax."""
        self._settle()
        self._manager.close()

    def finish(self) -> None:
        """Closes; raises SaveError if the last requested step is not saved."""
        self.close()
        saved = self.steps()
        if self.requested is not None and self.requested not in saved:
            raise SaveError(
                f"the state of step {self.requested} is not saved in {self.directory}, only {saved}; the warning above "
                "says why; fix it, then run the same command to resume from the newest checkpoint"
            )

    def was_evaluated(self, step: int) -> bool:
        """Tells whether `step` was evaluated before it was saved; the same answer on all hosts."""
        return bool(self._manager.metrics(step))

    def restore_latest(self, abstract: TrainState) -> tuple[TrainState, int] | None:
        """Returns (state, step) of the newest undamaged checkpoint, in the shardings of `abstract`; None without any.

        Warns of damaged checkpoints and renames them to `damaged-STEP-N`. Raises InputError if the newest is of another
        model, with the names and shapes that differ, or if all checkpoints are damaged.
        """
        steps, damaged = sorted(self.steps(), reverse=True), []
        for step in steps:
            try:
                state = self._restore(step, abstract)
            except DamageError as error:
                warn(f"checkpoint {step} is damaged, trying the previous checkpoint: {error}")
                damaged.append(step)
                continue
            self._set_aside(damaged)
            return state, step
        if steps:
            raise InputError(f"none of the checkpoints {steps} in {self.directory} can be read; move that folder away")
        return None

    def _restore(self, step: int, abstract: TrainState) -> TrainState:
        """Restores one checkpoint; all hosts get the same result: the state, InputError or DamageError."""
        path, failure = self.directory / str(step), None
        try:
            check_fits(path / "state", abstract)
            saved = saved_checksums(path)
            # Not the manager: it waits for hosts that may have failed to read their part.
            target = ocp.args.StandardRestore(to_tree(abstract))
            tree = ocp.StandardCheckpointHandler().restore(path / "state", args=target)
        except InputError:
            raise
        except Exception as error:  # damage raises ValueError, KeyError, JSONDecodeError and bare Exception
            failure = short_reason(error)
        if not all_agree(failure is None):
            raise DamageError(failure or "another host cannot read it")
        check_sums(saved, checksums(tree))
        return from_tree(tree)

    def _set_aside(self, damaged: list[int]) -> None:
        """Renames damaged checkpoints so that the steps can be saved again; deletes nothing."""
        if not damaged:
            return
        if jax.process_index() == 0:
            for step in damaged:
                path = self.directory / str(step)
                free = next(n for n in itertools.count() if not (self.directory / f"damaged-{step}-{n}").exists())
                path.rename(self.directory / f"damaged-{step}-{free}")
        wait_for_all("damaged checkpoints are set aside")
        self._manager.reload()


def set_damaged_metrics_aside(directory: pathlib.Path) -> None:
    """Renames damaged metrics, which would break every later save; their steps are evaluated again."""
    if jax.process_index() == 0:
        for path in directory.glob("*/metrics/metrics"):
            if not can_be_compared(path):
                warn(f"{path} is damaged; the checkpoint is evaluated again")
                path.parent.rename(path.parents[1] / "damaged-metrics")
    wait_for_all("metrics are checked")


def can_be_compared(path: pathlib.Path) -> bool:
    """Tells whether a metrics file gives its checkpoint a finite `goodness`."""
    try:
        return math.isfinite(goodness(json.loads(path.read_text())))
    except (ValueError, TypeError, KeyError, OverflowError, AttributeError):
        return False


class DamageError(ValueError):
    """A checkpoint cannot be read, or its numbers differ from the saved numbers."""


def goodness(metrics: dict[str, float]) -> float:
    """Returns the rank value of a checkpoint, higher is better; without progress it is behind all with progress."""
    progress = metrics.get(PROGRESS)
    return -BEHIND - metrics[LOSS] if progress is None else progress


def short_reason(error: Exception) -> str:
    """Returns the message of an error, cut to one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split()) or type(error).__name__
    return "No space left on device" if "No space left on device" in text else text[:200]


def saved_checksums(path: pathlib.Path) -> dict[str, int]:
    """Returns the saved checksums of the checkpoint at `path`; raises DamageError if they cannot be read."""
    try:
        saved = ocp.JsonCheckpointHandler().restore(path / "checksums")
    except Exception as error:
        raise DamageError(f"its checksums cannot be read: {short_reason(error)}") from error
    if not isinstance(saved, dict):
        raise DamageError("its checksums have no names")
    return saved


def check_sums(saved: dict[str, int], found: dict[str, int]) -> None:
    """Raises DamageError unless each checksum in `found` equals the saved checksum."""
    wrong = [name for name, value in found.items() if saved.get(name) != value]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise DamageError(f"the checksum of {', '.join(wrong[:3])}{more} is wrong")


def to_tree(state: TrainState) -> dict:
    """Returns the state as a dictionary with the items step, params, opt_state and, if it exists, ema."""
    tree = {"step": state.step, "params": state.params, "opt_state": state.opt_state}
    return tree if state.ema is None else tree | {"ema": state.ema}


def from_tree(tree: dict) -> TrainState:
    """Returns the state from a dictionary of `to_tree`."""
    return TrainState(tree["step"], tree["params"], tree["opt_state"], tree.get("ema"))
