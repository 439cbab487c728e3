"""Weights out: names, shapes and values of each format; refusals; the real libraries in a test marked slow."""

import importlib.util
import json
import os

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from sklearn.datasets import load_sample_images
from vit_numpy import encode

import sit_jax
from configs import folder as folder_config
from sit_jax import evaluate, export
from sit_jax.config.resolve import resolve
from sit_jax.eval.restore import restore
from sit_jax.exports.check import relative
from sit_jax.exports.formats import FORMATS, missing
from sit_jax.exports.weights import Weights, arrays_of, collect
from sit_jax.model.build import make_model
from sit_jax.weights.foreign import read_foreign
from sit_jax.weights.own import flat

pytestmark = pytest.mark.usefixtures("quick_compilation")
WIDTH, HEADS, PATCHES = 32, 2, 64  # of the model of :runlocal
CLASSES = 3


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (24, 12, 12, 3), np.uint8), np.arange(24) % CLASSES
    path = tmp_path_factory.mktemp("data") / "images.npz"
    split = {"train_images": images[:16], "train_labels": labels[:16]}
    np.savez(path, **split, test_images=images[16:], test_labels=labels[16:])
    return path


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    options = {"eval__page": 0, "steps": 1, "batch_size": 8, "eval_every": 1, "checkpoint_every": 1, "log_every": 1}
    return sit_jax.pretrain(f"npz:{data}", tmp_path_factory.mktemp("run"), config="folder:runlocal", **options)


@pytest.fixture(scope="module")
def classifier(run):
    arguments = ["--config.finetune.epochs=1", "--config.finetune.batch_size=8", "--nobaseline"]
    assert evaluate.main(["evaluate", f"--workdir={run.workdir}", "--protocol=finetune", *arguments]) == 0
    return next((run.workdir / "eval").glob("finetune-*.json"))


def exported(run, out, name, *arguments):
    words = ["export", f"--workdir={run.workdir}", f"--format={name}", f"--out={out}", *arguments]
    assert export.main(words) == 0
    return out


def expected_of(run, images):
    """Tokens of the model itself in float32."""
    return collect(restore(run.workdir, None, "params", {"dtype": "float32"}), None).expected(images)["tokens"]


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).random((3, 32, 32, 3), np.float32)


def test_timm_gets_the_names_shapes_and_values_of_a_distilled_deit(run, images, tmp_path, capsys):
    """Against an independent NumPy forward pass: 1e-5 of the largest value."""
    out = exported(run, tmp_path / "out", "timm")
    arrays = load_file(out / "model.safetensors")
    assert {name: array.shape for name, array in arrays.items() if "blocks" not in name} == {
        "cls_token": (1, 1, WIDTH),
        "dist_token": (1, 1, WIDTH),
        "pos_embed": (1, 2 + PATCHES, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, 4, 4),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
    }
    layer = {name: array.shape for name, array in arrays.items() if "blocks" in name}
    assert len(layer) == 12 and layer["blocks.0.attn.qkv.weight"] == (3 * WIDTH, WIDTH)
    found = encode(arrays, (images.astype(np.float64) - 0.5) / 0.5, HEADS)
    assert relative(found, expected_of(run, images)) < 1e-5
    config = json.loads((out / "config.json").read_text())
    assert config["architecture"] == "deit_base_distilled_patch16_224" and config["num_classes"] == 0
    assert config["pretrained_cfg"]["mean"] == [0.5] * 3 and config["pretrained_cfg"]["input_size"] == [3, 32, 32]
    sizes = {"embed_dim": WIDTH, "depth": 1, "num_heads": HEADS, "mlp_ratio": 4.0}
    assert config["model_args"] == {"img_size": 32, "patch_size": 4, "in_chans": 3, **sizes}
    printed = capsys.readouterr().out
    assert "timm.create_model(" in printed
    assert "compared on 16 images of the run: largest differences, of the largest value: tokens" in printed
    if missing(FORMATS["timm"]):
        assert "(read back, without torch timm torchvision: pip install" in printed


def test_hugging_face_gets_the_same_weights_under_its_names(run, tmp_path):
    out = exported(run, tmp_path / "out", "hf")
    names = load_file(out / "model.safetensors").keys()
    assert len(names) == 7 + 16 and "encoder.layer.0.attention.attention.query.weight" in names
    config = json.loads((out / "config.json").read_text())
    assert config["model_type"] == "deit" and config["layer_norm_eps"] == 1e-6 and config["qkv_bias"] is True
    assert (config["hidden_size"], config["num_hidden_layers"], config["image_size"]) == (WIDTH, 1, 32)
    processing = json.loads((out / "preprocessor_config.json").read_text())
    assert processing["image_mean"] == processing["image_std"] == [0.5] * 3
    assert processing["size"] == {"shortest_edge": 32} and processing["resample"] == 3
    foreign = read_foreign(out)
    assert foreign.layout == "distilled DeiT of Hugging Face" and foreign.epsilon == 1e-6
    restored = restore(run.workdir, None, "params", {})
    jax.tree.map(np.testing.assert_array_equal, foreign.encoder, jax.device_get(restored.params["encoder"]))


def test_our_own_names_lose_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = exported(run, tmp_path / "out", "safetensors")
    whole = restore(run.workdir, None, "params", {}, with_heads=True)
    arrays, params = load_file(out / "model.safetensors"), flat(jax.device_get(whole.params))
    assert arrays.keys() == params.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, params[name], err_msg=name)
    pictures = np.random.default_rng(2).integers(0, 256, (4, 40, 36, 3), np.uint8)
    again, encoder = sit_jax.load(out), run.encoder()
    np.testing.assert_array_equal(again(pictures), encoder(pictures))
    np.testing.assert_array_equal(again(pictures, "projection"), encoder(pictures, "projection"))


def test_stablehlo_runs_for_any_number_of_images(run, images, tmp_path, capsys):
    out = exported(run, tmp_path / "out", "stablehlo")
    assert "compared on 16 images of the run: largest differences" in capsys.readouterr().out
    program = jax.export.deserialize(bytearray((out / "model.stablehlo").read_bytes()))
    assert set(program.platforms) == {"cpu", "cuda", "tpu"}
    expected = expected_of(run, images)
    for count in (1, 3):
        features, patches = program.call(images[:count])
        assert relative(np.asarray(features), expected[:count, :2].reshape(count, -1)) < 1e-5
        assert relative(np.asarray(patches), expected[:count, 2:]) < 1e-5


def test_onnx_runs_for_any_number_of_images(run, images, tmp_path, capsys):
    pytest.importorskip("jax2onnx")
    runtime = pytest.importorskip("onnxruntime")
    out = exported(run, tmp_path / "out", "onnx")
    assert "compared on 16 images of the run: largest differences" in capsys.readouterr().out
    session = runtime.InferenceSession(out / "model.onnx")
    expected = expected_of(run, images)
    for count in (1, 3):
        features, patches = session.run(["features", "patches"], {"images": images[:count]})
        assert relative(features, expected[:count, :2].reshape(count, -1)) < 1e-5
        assert relative(patches, expected[:count, 2:]) < 1e-5


def test_files_and_folders_have_the_mode_that_the_umask_allows(run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "out"
    before = os.umask(0o027)
    try:
        assert export.main(["export", f"--workdir={run.workdir}", "--format=safetensors", f"--out={out}"]) == 0
        adopted = sit_jax.load(out).workdir
    finally:
        os.umask(before)
    assert [oct(folder.stat().st_mode & 0o777) for folder in (out, adopted)] == ["0o750"] * 2
    files = [*out.iterdir(), adopted / "config.json"]
    assert [oct(path.stat().st_mode & 0o777) for path in files] == ["0o640"] * len(files)


def test_an_export_keeps_the_step_of_its_checkpoint(run, tmp_path):
    out = exported(run, tmp_path / "own", "safetensors")
    assert "step 1," in repr(sit_jax.load(out)) and "step 1," in repr(run.encoder())


def test_without_the_converter_the_package_is_named(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "jax2onnx", None)
    assert export.main(["export", f"--workdir={run.workdir}", "--format=onnx", f"--out={tmp_path / 'out'}"]) == 2
    assert "pip install jax2onnx==0.13.0 onnxruntime" in capsys.readouterr().err


def test_a_fine_tuned_classifier(run, classifier, images, tmp_path):
    """Both heads, the names of the classes, and logits that are the mean of both: 1e-5."""
    out = exported(run, tmp_path / "timm", "timm", f"--classifier={classifier}")
    arrays, config = load_file(out / "model.safetensors"), json.loads((out / "config.json").read_text())
    assert arrays["head.weight"].shape == arrays["head_dist.weight"].shape == (CLASSES, WIDTH)
    assert config["num_classes"] == CLASSES and config["label_names"] == ["0", "1", "2"]
    assert "logits = model(transform(image)[None])" in (out / "README.md").read_text()
    tokens = encode(arrays, 2.0 * images - 1, HEADS)
    pairs = [
        tokens[:, k] @ arrays[f"{name}.weight"].T + arrays[f"{name}.bias"]
        for k, name in enumerate(("head", "head_dist"))
    ]
    out = exported(run, tmp_path / "hlo", "stablehlo", f"--classifier={classifier}")
    program = jax.export.deserialize(bytearray((out / "model.stablehlo").read_bytes()))
    assert relative(np.asarray(program.call(images)[2]), np.mean(pairs, axis=0)) < 1e-5
    out = exported(run, tmp_path / "hf", "hf", f"--classifier={classifier}")
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["DeiTForImageClassificationWithTeacher"] and config["id2label"]["2"] == "2"
    assert {"cls_classifier.weight", "distillation_classifier.bias", "deit.layernorm.bias"} <= load_file(
        out / "model.safetensors"
    ).keys()


def test_the_model_card_has_recipe_scores_and_the_loading_lines(run, tmp_path):
    assert evaluate.main(["evaluate", f"--workdir={run.workdir}", "--protocol=knn", "--config.eval.knn_k=3"]) == 0
    card = (exported(run, tmp_path / "out", "stablehlo") / "README.md").read_text()
    report = json.loads(next((run.workdir / "eval").glob("knn-*.json")).read_text())
    values = [f"{100 * found['top1']:.1f}" for found in (report, report["baseline"], report["pixels"])]
    assert f"| {' | '.join(values)} |" in card
    assert run.config["data"]["fingerprint"] in card and "jax.export.deserialize" in card and "## Licence" in card


@pytest.mark.slow
def test_the_authors_layout_needs_the_paper_s_heads(run, data, tmp_path, capsys):
    words = ["--format=authors", f"--out={tmp_path / 'x'}"]
    assert export.main(["export", f"--workdir={run.workdir}", *words]) == 2
    assert "needs the paper's heads" in capsys.readouterr().err
    options = {"eval__page": 0, "steps": 1, "batch_size": 8, "eval_every": 1, "checkpoint_every": 1, "log_every": 1}
    paper = sit_jax.pretrain(f"npz:{data}", tmp_path / "paper", config="folder:paper,runlocal", **options)
    foreign = read_foreign(exported(paper, tmp_path / "authors", "authors"))
    whole = jax.device_get(restore(paper.workdir, None, "params", {}, with_heads=True).params)
    assert foreign.layout == "SiT of its authors" and foreign.left == ()
    jax.tree.map(np.testing.assert_array_equal, {"encoder": foreign.encoder, **foreign.heads}, whole)


def test_a_training_starts_from_an_export(run, data, tmp_path):
    """Encoder and heads, without a step in between: with a learning rate of 0 the weights stay."""
    out = exported(run, tmp_path / "own", "safetensors")
    options = {"eval__page": 0, "steps": 1, "batch_size": 8, "eval_every": 1, "checkpoint_every": 1, "log_every": 1}
    rates = {f"optim__{name}_learning_rate": 0.0 for name in ("base", "final", "warmup")} | {"optim__weight_decay": 0.0}
    again = sit_jax.pretrain(f"npz:{data}", tmp_path / "run", "folder:runlocal", init=str(out), **options, **rates)
    jax.tree.map(np.testing.assert_array_equal, again.encoder().params, run.encoder().params)
    with pytest.raises(sit_jax.InputError, match="is a run; export it with --format=safetensors"):
        sit_jax.pretrain(f"npz:{data}", tmp_path / "other", "folder:runlocal", init=str(run.workdir), **options)


# By name: what is done to an export of ours, and a part of the line.
BROKEN = {
    "no weights": (lambda out: (out / "model.safetensors").unlink(), "holds no weights; expected model.safetensors"),
    "cut off": (lambda out: truncate(out / "model.safetensors"), "is cut off"),
    "no configuration": (lambda out: (out / "config.json").unlink(), "has no known layout"),
    "damaged configuration": (lambda out: (out / "config.json").write_text("{"), "is damaged"),
}


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_export_is_one_line(run, name, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    harm, expected = BROKEN[name]
    out = exported(run, tmp_path / "out", "safetensors")
    harm(out)
    with pytest.raises(sit_jax.InputError, match=expected) as error:
        sit_jax.load(out)
    assert "\n" not in str(error.value)


def test_a_folder_with_files_is_not_written_to(run, capsys):
    before = sorted(run.workdir.iterdir())
    assert export.main(["export", f"--workdir={run.workdir}", "--format=hf", f"--out={run.workdir}"]) == 2
    assert "holds files already; give the name of a new folder" in capsys.readouterr().err
    assert sorted(run.workdir.iterdir()) == before


def test_an_export_with_other_values_is_no_success(run, tmp_path, monkeypatch):
    """The check itself: a wrong sign in the first layer of the program."""
    from sit_jax.exports import plain

    encode_right = plain.encode
    monkeypatch.setattr(plain, "encode", lambda arrays, images, *rest: encode_right(arrays, 1 - images, *rest))
    with pytest.raises(RuntimeError, match="gives other values than the model"):
        export.main(["export", f"--workdir={run.workdir}", "--format=stablehlo", f"--out={tmp_path / 'out'}"])
    assert not list(tmp_path.iterdir())  # nothing stays behind


def test_a_classifier_of_other_weights_is_refused(run, classifier, tmp_path, capsys):
    report = json.loads(classifier.read_text())
    other = tmp_path / "finetune-other.json"
    for settings, expected in (
        ({"model": report["settings"]["model"] | {"image_size": 48}}, "add --config.model.image_size=48"),
        ({"weights": "0"}, "was fine-tuned from other weights"),
    ):
        other.write_text(json.dumps(report | {"settings": report["settings"] | settings}))
        arguments = ["--format=timm", f"--out={tmp_path / 'x'}", f"--classifier={other}"]
        assert export.main(["export", f"--workdir={run.workdir}", *arguments]) == 2
        assert expected in capsys.readouterr().err


def test_wrong_arguments_are_one_line(run, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "other.json").write_text('{"protocol": "knn"}')
    for arguments, expected in (
        (["--format=timm", f"--out={tmp_path / 'file'}"], "is a file; give the name of a folder"),
        (["--format=timm"], "--out is missing"),
        (["--format=timm", f"--out={tmp_path / 'x'}", f"--classifier={tmp_path / 'other.json'}"], "is no report of"),
        (["--format=timm", f"--out={tmp_path / 'x'}", "--classifier=nowhere.json"], "is no report of"),
        (
            ["--format=keras", f"--out={tmp_path / 'x'}"],
            "should be one of <timm|hf|safetensors|authors|onnx|stablehlo>",
        ),
    ):
        assert export.main(["export", f"--workdir={run.workdir}", *arguments]) == 2
        assert expected in capsys.readouterr().err


def large(size, patch_size, image_size):
    """Random weights of a real size, twice as large as initial weights: their attention is less uniform."""
    config = folder_config.get_config("gpu")
    config.model.update(size=size, patch_size=patch_size, image_size=image_size)
    config.dtype, config.data.source = "float32", "digits"
    config = resolve(config, 1000)
    from flax import nnx

    model = make_model(config, jax.random.key(0))
    params = jax.tree.map(lambda x: x * 2, nnx.to_pure_dict(nnx.state(model.encoder, nnx.Param)))
    weights = Weights(config, {"encoder": params}, arrays_of(params, config), (), 0)
    rng = np.random.default_rng(0)
    for name in ("head", "head_dist"):
        weights.arrays[f"{name}.weight"] = rng.normal(0, 0.1, (10, params["tokens"].shape[1])).astype(np.float32)
        weights.arrays[f"{name}.bias"] = rng.normal(0, 0.1, 10).astype(np.float32)
    return weights._replace(class_names=tuple("abcdefghij"))


def photographs(side):
    """16 crops of the two photographs of scikit-learn, float32 [16, side, side, 3] in [0, 1]."""
    both = [Image.fromarray(photo) for photo in load_sample_images().images]
    rng = np.random.default_rng(0)
    crops = []
    for i in range(16):
        x, y, size = *rng.integers(0, 200, 2), int(rng.integers(150, 220))
        crops.append(np.asarray(both[i % 2].crop((x, y, x + size, y + size)).resize((side, side))))
    return np.stack(crops).astype(np.float32) / 255


@pytest.mark.slow
@pytest.mark.parametrize("model", [("S", 4, 32), ("B", 16, 224)], ids=["S/4", "B/16"])
@pytest.mark.parametrize("name", ["timm", "hf", "onnx", "stablehlo"])
def test_real_sizes_in_the_libraries_themselves(name, model, tmp_path):
    """Tokens and logits in float32: 1e-5 of the largest value. Skipped without the library (docs/weights.md)."""
    row = FORMATS[name]
    converter = ["jax2onnx"] if name == "onnx" and importlib.util.find_spec("jax2onnx") is None else []
    if absent := missing(row) + converter:
        pytest.skip(f"needs {', '.join(absent)}")
    weights = large(*model)
    row.write(weights, tmp_path)
    images = photographs(model[2])
    expected, found = weights.expected(images), row.run(weights, tmp_path, images)
    for kind, array in found.items():
        difference = relative(array, expected[kind])
        print(f"{name} {model[0]}/{model[1]} {kind} {difference:.1e}")
        assert difference < 1e-5
