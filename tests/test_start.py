"""Weights of another project in use: --config.init, a training that starts from them, and --encoder."""

import hashlib

import jax
import numpy as np
import pytest
from test_weights import MU, PATCH, sit, vit, without, write

from configs import folder
from sit_jax.common.errors import InputError
from sit_jax.config.resolve import resolve
from sit_jax.eval.adopted import adopt
from sit_jax.eval.restore import restore
from sit_jax.parallel.mesh import make_mesh
from sit_jax.train.loop import start_from
from sit_jax.train.state import init_state, make_training
from sit_jax.weights.start import follow

pytestmark = pytest.mark.usefixtures("quick_compilation")


def config_for(path, **model):
    config = folder.get_config("continue,runlocal")
    config.init = str(path)
    config.model.update(**model)
    return config


def started(path, **model):
    """The state before and after, and what it started from; the images have 32 px, those of the weights 16 px."""
    config, foreign = follow(config_for(path, **model), None)
    config = resolve(config, 100)
    mesh = make_mesh(**config.mesh)
    with jax.set_mesh(mesh):
        before = init_state(config, make_training(config), mesh)
        return before, start_from(before, foreign, config), foreign


def equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_a_fresh_run_takes_the_encoder_and_makes_the_heads_new(tmp_path, capsys):
    before, after, foreign = started(write(tmp_path / "weights", vit() | {"head.weight": np.zeros((3, 32))}, MU))
    encoder = dict(after.params["model"]["encoder"])
    assert encoder.pop("position_embedding").shape == (2 + 8 * 8, 32)
    equal(encoder, {name: foreign.encoder[name] for name in encoder})
    equal(
        {name: head for name, head in after.params["model"].items() if name != "encoder"},
        {name: head for name, head in before.params["model"].items() if name != "encoder"},
    )
    equal(after.ema, after.params)
    leaves = zip(jax.tree.leaves(after.params), jax.tree.leaves(before.params), strict=True)
    assert all(new.sharding == old.sharding and new.dtype == old.dtype for new, old in leaves)
    rows = capsys.readouterr().out
    assert "positions resized from 16 to 32 px" in rows
    assert "made new  contrastive, reconstruction, rotation" in rows and "left      head.weight" in rows


def test_the_heads_of_the_authors_are_taken_if_they_fit(tmp_path):
    """Their contrastive head is one layer of 512 values."""
    path = write(tmp_path / "weights", sit(), MU)
    fitting = {"embedding_size": 512, "projector_layers": 1, "projector_norm": "none"}
    _, after, foreign = started(path, **fitting)
    equal({name: after.params["model"][name] for name in foreign.heads}, foreign.heads)
    before, after, foreign = started(path, embedding_size=64)
    equal(after.params["model"]["rotation"], foreign.heads["rotation"])
    equal(after.params["model"]["contrastive"], before.params["model"]["contrastive"])


def test_the_weights_set_the_model_and_a_run_keeps_their_hash(tmp_path):
    config, foreign = follow(config_for(write(tmp_path / "weights", vit(), MU), size="S", patch_size=16), None)
    assert (config.model.size, config.model.patch_size, config.init_hash) == ("mu", PATCH, foreign.sha256)


def test_a_resumed_run_does_not_read_the_file_again(tmp_path):
    config, _ = follow(config_for(write(tmp_path / "weights", vit(), MU)), None)
    (tmp_path / "weights" / "model.safetensors").unlink()
    again, foreign = follow(config_for(tmp_path / "weights", size="S"), config.to_dict())
    assert foreign is None and again.to_dict() == config.to_dict()


def test_without_weights_nothing_changes():
    config = folder.get_config("runlocal")
    assert follow(config, None) == (config, None)


# By name: the arrays, the keys of the model, and a part of the line.
WRONG = {
    "channels": (vit(), {"channels": 4}, "needs data.channels=3"),
    "stem": (vit(), {"stem": "convolutions"}, "model.stem=patches"),
    "image side": (vit(), {"image_size": 30}, "image_size"),
    "incomplete": (without(vit(), "norm1"), {}, "lacks 2 arrays"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_one_line(name, tmp_path):
    arrays, model, expected = WRONG[name]
    with pytest.raises(InputError, match=expected) as error:
        follow(config_for(write(tmp_path / "weights", arrays, MU), **model), None)
    assert "\n" not in str(error.value)


def test_an_adopted_encoder_is_made_once_and_again_if_the_files_beside_it_change(tmp_path):
    path = write(tmp_path / "weights", vit(), MU)
    first = adopt(path, tmp_path / "encoders")
    assert adopt(path, tmp_path / "encoders") == first
    write(path, vit(), MU | {"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}})
    assert adopt(path, tmp_path / "encoders") != first


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written \\(Not a directory\\); set XDG_CACHE_HOME=FOLDER"):
        adopt(write(tmp_path / "weights", vit(), MU), tmp_path / "file" / "encoders")


def test_what_needs_heads_says_so_for_an_encoder_alone(tmp_path):
    workdir = adopt(write(tmp_path / "weights", vit(), MU), tmp_path / "encoders")
    restored = restore(workdir, None, "params", {})
    with pytest.raises(InputError, match=r"without the heads of the tasks.*--config.init=FILE"):
        restore(workdir, None, "params", {}, with_heads=True)
    source = str(tmp_path / "weights")
    sha256 = hashlib.sha256((tmp_path / "weights" / "model.safetensors").read_bytes()).hexdigest()
    assert restored.origin() == {"pretrained_on": source, "init": source, "init_sha256": sha256}
