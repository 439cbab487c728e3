import errno
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from sit_jax.common.errors import InputError, SaveError
from sit_jax.parallel.checksums import checksums
from sit_jax.parallel.mesh import make_mesh, state_shardings
from sit_jax.train.checkpoint import Checkpoints
from sit_jax.train.state import TrainState


def checksum_by_hand(x):
    """The definition in NumPy: the sum of each element's bits times an odd weight, modulo 2**32."""
    bits = np.ascontiguousarray(x).view(np.uint32).ravel().astype(np.uint64)
    return int((bits * (2 * np.arange(bits.size, dtype=np.uint64) + 1)).sum() % 2**32)


def array(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_checksums_are_those_of_numpy_on_every_mesh():
    tree = {"a": {"b": array((16, 8, 4))}, "c": np.int32(-5), "d": array((7,))}
    expected = {"a/b": checksum_by_hand(tree["a"]["b"]), "c": 2**32 - 5, "d": checksum_by_hand(tree["d"])}
    for mesh in (make_mesh(), make_mesh(1, 4), make_mesh(-1, 2, slices=2)):
        shardings = state_shardings(jax.eval_shape(lambda: jax.tree.map(jnp.asarray, tree)), mesh, small=1)
        assert checksums(jax.device_put(tree, shardings)) == expected


@pytest.mark.parametrize("place", [(0, 0), (3, 5), (7, 7)])
@pytest.mark.parametrize("bit", [0, 13, 31])
def test_one_flipped_bit_changes_the_checksum(place, bit):
    x = array((8, 8))
    flipped = x.copy()
    flipped.view(np.uint32)[place] ^= np.uint32(1 << bit)
    swapped = x[::-1].copy()
    assert len({checksums({"x": jnp.asarray(y)})["x"] for y in (x, flipped, swapped)}) == 3


def make_state(step, fsdp=4):
    """A state sharded over `fsdp` devices; its array is large and random, so that its file is not compressed."""
    mesh = make_mesh(-1, fsdp)
    state = TrainState(jnp.int32(step), {"model": {"w": array((256, 1024), step)}}, (jnp.float32(step),), None)
    return jax.device_put(state, state_shardings(state, mesh))


def abstract(fsdp):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), make_state(0, fsdp))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved")
    checkpoints = Checkpoints(path, keep_latest=2, keep_best=0)
    for step in (1, 2):
        checkpoints.save(make_state(step), step, None)
    checkpoints.finish()
    return path


def flip_a_bit_in_the_largest_file(path):
    file = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    assert file.stat().st_size > 2**18
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def change_a_checksum(path):
    file = path / "checksums" / "metadata"
    sums = json.loads(file.read_text())
    sums["params/model/w"] ^= 1
    file.write_text(json.dumps(sums))


def replace_the_checksums(path):
    (path / "checksums" / "metadata").write_text("[1, 2]")


def remove_the_checksums(path):
    (path / "checksums" / "metadata").unlink()


@pytest.mark.parametrize(
    "damage", [flip_a_bit_in_the_largest_file, change_a_checksum, replace_the_checksums, remove_the_checksums]
)
def test_wrong_numbers_are_never_restored(saved, tmp_path, damage, capsys):
    run = copy_of(saved, tmp_path)
    damage(run / "checkpoints" / "2")
    checkpoints = Checkpoints(run, keep_latest=2, keep_best=0)
    state, step = checkpoints.restore_latest(abstract(2))
    assert step == 1
    np.testing.assert_array_equal(state.params["model"]["w"], array((256, 1024), 1))
    assert state.params["model"]["w"].sharding.spec == P(None, "fsdp")
    assert "warning: checkpoint 2 is damaged, trying the previous checkpoint: " in capsys.readouterr().err
    assert (run / "checkpoints" / "damaged-2-0").is_dir()
    checkpoints.save(make_state(2), 2, None)  # the step can be saved again
    checkpoints.finish()
    assert checkpoints.steps() == [1, 2]


@pytest.mark.parametrize(
    "metrics",
    ['{"eval/loss": 1.', "{}", '{"eval/lost": 1.0}', '{"eval/loss": "1"}', '{"eval/loss": NaN}', "null", "[1]"],
)
def test_damaged_metrics_do_no_harm(saved, tmp_path, capsys, metrics):
    run = copy_of(saved, tmp_path)
    (run / "checkpoints" / "2" / "metrics").mkdir()
    (run / "checkpoints" / "2" / "metrics" / "metrics").write_text(metrics)
    checkpoints = Checkpoints(run, keep_latest=2, keep_best=1)
    assert checkpoints.restore_latest(abstract(1))[1] == 2
    assert not checkpoints.was_evaluated(2)
    checkpoints.save(make_state(3), 3, {"eval/loss": 1.0})
    checkpoints.finish()
    assert checkpoints.steps() == [2, 3]
    assert "metrics is damaged; the checkpoint is evaluated again" in capsys.readouterr().err


def test_all_damaged_is_an_error_and_deletes_nothing(saved, tmp_path):
    run = copy_of(saved, tmp_path)
    for step in (1, 2):
        remove_the_checksums(run / "checkpoints" / str(step))
    with pytest.raises(InputError, match=r"none of the checkpoints \[2, 1\] .* can be read; move that folder away"):
        Checkpoints(run, keep_latest=2, keep_best=0).restore_latest(abstract(1))
    assert (run / "checkpoints" / "2" / "state").is_dir()


def copy_of(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    return tmp_path / "run"


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def stale_disk(path):
    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))


def test_with_other_hosts_a_save_that_fails_at_its_start_ends_this_one(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep_latest=1, keep_best=0)
    monkeypatch.setattr("sit_jax.train.checkpoint.several", lambda: True)
    monkeypatch.setattr("sit_jax.train.checkpoint.all_agree", lambda good: good)
    monkeypatch.setattr("orbax.checkpoint.StandardCheckpointHandler.async_save", full_disk)
    with pytest.raises(SaveError, match="the checkpoint of step 2 could not be saved: No space left on device"):
        checkpoints.save(make_state(2), 2, None)


@pytest.mark.parametrize("host,failure,said", [(0, None, True), (1, None, False), (1, OSError("no"), True)])
def test_a_failed_save_is_said_where_it_failed_and_by_host_0(tmp_path, monkeypatch, capsys, host, failure, said):
    checkpoints = Checkpoints(tmp_path, keep_latest=1, keep_best=0)
    monkeypatch.setattr("jax.process_index", lambda: host)
    monkeypatch.setattr("sit_jax.train.checkpoint.all_agree", lambda good: False)
    monkeypatch.setattr(checkpoints, "_open", lambda: checkpoints._manager)
    checkpoints._recover(failure)
    assert ("could not be saved" in capsys.readouterr().err) == said


def test_a_save_that_fails_is_said_and_harms_nothing(tmp_path, monkeypatch, capsys):
    checkpoints = Checkpoints(tmp_path, keep_latest=1, keep_best=0)
    checkpoints.save(make_state(1), 1, None)
    with monkeypatch.context() as patch:
        patch.setattr("orbax.checkpoint.StandardCheckpointHandler.async_save", full_disk)
        checkpoints.save(make_state(2), 2, None)
    line = "warning: the checkpoint of step 2 could not be saved (No space left on device); older ones are kept"
    assert capsys.readouterr().err == f"{line}: the newest is of step 1\n"
    assert checkpoints.steps() == [1]
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6))
        checkpoints.save(make_state(3), 3, None)
    assert "step 3 could not be saved (No space left on device: it needs 1.0 MB); " in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", stale_disk)
        checkpoints.save(make_state(3), 3, None)
    assert "step 3 could not be saved (Stale file handle); older ones are kept" in capsys.readouterr().err
    with pytest.raises(SaveError, match=r"step 3 is not saved in .*, only \[1\]; the warning above says why"):
        checkpoints.finish()
    checkpoints = Checkpoints(tmp_path, keep_latest=1, keep_best=0)
    assert checkpoints.restore_latest(abstract(4))[1] == 1
    checkpoints.save(make_state(4), 4, None)
    checkpoints.finish()
    assert checkpoints.steps() == [4]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["4"]
