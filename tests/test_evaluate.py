"""Evaluations as commands: their files, repetition and resumption, and no choice by the test split."""

import contextlib
import json
import os
import shutil

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from configs import digits
from sit_jax import evaluate as command
from sit_jax import transfer
from sit_jax.config.resolve import resolve
from sit_jax.eval import evaluation
from sit_jax.eval import report as reports
from sit_jax.eval.data import same_source
from sit_jax.eval.evaluation import evaluate
from sit_jax.eval.report import comparison_lines, comparisons, summarise
from sit_jax.eval.restore import restore
from sit_jax.eval.settings import Settings
from sit_jax.parallel.mesh import make_mesh
from sit_jax.probes import monitors
from sit_jax.probes.features import make_encode
from sit_jax.probes.labels import Amount
from sit_jax.probes.pixels import Pixels, baselines, make_pixels
from sit_jax.probes.scores import score
from sit_jax.train.announce import write_config
from sit_jax.train.checkpoint import Checkpoints
from sit_jax.train.state import init_state, make_training
from sit_jax.views import whole_images

pytestmark = pytest.mark.usefixtures("quick_compilation")
TINY = {
    "linear.l2": (1e-3, 1e-2, 1.0),
    "linear.batch_size": 64,
    "linear.learning_rates": (0.03, 0.3),
    "finetune.batch_size": 64,
    "finetune.epochs": 10.0,
    "finetune.optim.base_learning_rate": 0.05,
}


def write_data(path, scramble=False, size=8, count=96):
    """Images whose brightness and one corner tell the class; `scramble` permutes the labels of the test split."""
    rng = np.random.default_rng(size)
    arrays = {}
    for split in ("train", "test"):
        labels = np.arange(count) % 3
        images = rng.integers(0, 120, (count, size, size, 3)) + 30 * labels[:, None, None, None]
        images[:, :3, :3, 0] += 60 * labels[:, None, None]
        arrays |= {f"{split}_images": images.astype(np.uint8), f"{split}_labels": labels}
    if scramble:
        arrays["test_labels"] = rng.permutation(arrays["test_labels"])
    np.savez(path, **arrays)
    return f"npz:{path}"


def make_run(workdir, source, **values):
    """Writes what a training leaves behind, with other random weights at step 2 than at step 0."""
    config = digits.get_config("runlocal")
    config.update_from_flattened_dict({"model.image_size": 8, "data.source": source} | values)
    config = resolve(config, 96)
    write_config(workdir, config)
    mesh = make_mesh()
    later = ml_collections.ConfigDict(config.to_dict() | {"seed": config.seed + 100})
    state = init_state(later, make_training(config), mesh)
    if state.ema is not None:
        state = state.replace(ema=jax.tree.map(lambda x: x * 0.9, state.params))
    checkpoints = Checkpoints(workdir, keep_latest=1, keep_best=0)
    checkpoints.save(state, 2, None)
    checkpoints.close()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with the data sets `own`, `scrambled` and `other`, and a run `run` on the first."""
    root = tmp_path_factory.mktemp("evaluate")
    write_data(root / "own.npz")
    write_data(root / "scrambled.npz", scramble=True)
    write_data(root / "other.npz", size=12)
    make_run(root / "run", f"npz:{root / 'own.npz'}", **{"optim.ema": 0.5})
    return root


@pytest.fixture
def run(root, tmp_path):
    """A copy of the run to write into."""
    return shutil.copytree(root / "run", tmp_path / "run")


def settings(workdir, protocol, **values):
    return Settings(workdir, protocol, **{"overrides": TINY, "baseline": False} | values)


def test_knn_from_the_command_line(run, tmp_path, capsys, monkeypatch):
    argv = ["evaluate", f"--workdir={run}", "--protocol=knn", f"--out={tmp_path / 'new' / 'out.json'}"]
    assert command.main(argv) == 0
    printed = capsys.readouterr().out
    assert "random weights top1" in printed and "96 images: test" in printed
    assert [path.name.rpartition("-")[0] for path in (run / "eval").glob("*.json")] == ["knn-npz-own.npz"]
    report = json.loads((tmp_path / "new" / "out.json").read_text())
    design = (
        "protocol data pretrained_on step top1 top5 num_train num_test labels seed features hyperparameters weights"
    )
    assert set(design.split()) <= report.keys()
    assert (report["step"], report["num_train"], report["num_test"]) == (2, 96, 96)
    assert report["hyperparameters"] == {"k": 20, "temperature": 0.07}
    assert report["results"][0]["pretrained"]["by_k"].keys() == {"1", "5", "20", "200"}
    assert np.sum(report["confusion"]) == np.sum(report["baseline"]["confusion"]) == 96
    assert report["top1"] == np.trace(report["confusion"]) / 96 == np.mean(report["per_class"])
    assert Image.open(tmp_path / "new" / "out.confusion.png").size[0] > 300

    def fail(*args):
        raise AssertionError("a finished evaluation is computed again")

    monkeypatch.setattr(evaluation, "run_units", fail)
    assert command.main(argv) == 0
    assert "is finished" in capsys.readouterr().out
    assert json.loads((tmp_path / "new" / "out.json").read_text()) == report


def test_pixels_and_intervals_stand_beside_the_encoder(run):
    report = evaluate(settings(run, "knn", baseline=True))[0]
    row = report["results"][0]
    raw = row["pixels raw"]
    assert report["pixels"]["top1"] == row["pixels"]["top1"] == raw["top1"]
    assert report["pixels"]["which"] == "raw"
    # The same by a library, on the same images.
    data = np.load(report["data"].removeprefix("npz:"))
    train, test = (np.asarray(whole_images(data[f"{split}_images"], 8)).reshape(96, -1) for split in ("train", "test"))
    model = KNeighborsClassifier(20, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
    assert raw["top1"] == model.fit(train, data["train_labels"]).score(test, data["test_labels"])
    low, high = report["interval"]
    width = 3.92 * np.sqrt(report["top1"] * (1 - report["top1"]) / 96)
    assert low < report["top1"] < high and high - low == pytest.approx(width, rel=0.15)
    difference = report["comparisons"]["pixels"]["difference"]
    assert difference == pytest.approx(report["top1"] - report["pixels"]["top1"])
    assert not report["transductive"]


def test_the_better_pixels_are_the_baseline():
    """Baselines are raw pixels, capped in number, and shrunk pixels; the better one at the most labels counts."""
    assert [tuple(pixels) for pixels in baselines(32, 32)] == [("raw", 32, 1), ("8 x 8", 8, 4)]
    assert [tuple(pixels) for pixels in baselines(224, 16)] == [("16 x 16", 16, 1), ("8 x 8", 8, 28)]
    assert [tuple(pixels) for pixels in baselines(8, 32)] == [("raw", 8, 1)]
    labels = np.arange(100) % 2

    def result(right):
        scored = score(np.eye(2)[np.where(np.arange(100) < right, labels, 1 - labels)], labels)
        return scored | {"num_train": 10, "hyperparameters": {}}

    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    shrunk = make_pixels(Pixels("8 x 8", 8, 2), make_mesh())({}, images)
    means = images.reshape(4, 8, 2, 8, 2, 3).mean(axis=(2, 4)).reshape(4, 1, -1) / 127.5 - 1
    np.testing.assert_allclose(shrunk, means, atol=1e-5)
    rights = {"pretrained": 80, "pixels raw": 60, "pixels 8 x 8": 70}
    results = {(name, Amount(share=1.0), 0): result(right) for name, right in rights.items()}
    summary = summarise(results)
    assert summary[0]["pixels"] == summary[0]["pixels 8 x 8"] | {"which": "8 x 8"}
    found = comparisons(summary[0], 100)
    assert found.keys() == {"pixels"} and found["pixels"]["difference"] == pytest.approx(0.1)


def test_a_run_is_compared_with_another_on_the_same_images(run, root, tmp_path, capsys):
    argv = ["evaluate", f"--workdir={run}", "--nobaseline"]
    other = tmp_path / "other.json"
    assert command.main([*argv, "--protocol=knn", f"--out={other}"]) == 0
    assert command.main([*argv, "--protocol=knn", f"--against={other}"]) == 0
    assert f"this run - {other}: +0.0 points [0.0, 0.0], p = 1.000" in capsys.readouterr().out
    assert command.main([*argv, "--protocol=linear", f"--against={other}"]) == 2
    assert "its protocol is knn, here linear" in capsys.readouterr().err
    assert command.main([*argv, "--protocol=knn", "--seed=1", f"--against={other}"]) == 2
    assert "its seed is 0, here 1" in capsys.readouterr().err
    assert not list((run / "eval").glob("linear-*"))  # nothing was computed before
    assert command.main([*argv, "--protocol=knn", f"--against={tmp_path / 'absent.json'}"]) == 2
    assert "give a report of sit_jax.evaluate" in capsys.readouterr().err


def test_an_evaluation_without_labels(run, tmp_path, capsys):
    """On images that have none; the figures are those of the functions on the same features."""
    images = np.load(json.loads((run / "config.json").read_text())["data"]["source"].removeprefix("npz:"))[
        "test_images"
    ]
    np.savez(tmp_path / "plain.npz", images=images)
    argv = ["evaluate", f"--workdir={run}", "--protocol=unlabelled", f"--data=npz:{tmp_path / 'plain.npz'}"]
    assert command.main([*argv, f"--out={tmp_path / 'out.json'}"]) == 0
    printed, report = capsys.readouterr().out, json.loads((tmp_path / "out.json").read_text())
    names = ["rank_me", "lidar", "alignment", "uniformity", "contrastive_progress", "negative_cosine", "token_std"]
    names += ["shared_variance"]
    assert all(np.isfinite(report[name]) and name in printed for name in names)
    assert set(names) <= report["baseline"].keys() and report["num_test"] == 96 and "kmeans_nmi" not in report
    restored = restore(run, None, "params", {}, with_heads=True)
    encode = make_encode(restored.config, restored.mesh)
    features = np.asarray(encode(restored.params, images))
    assert report["rank_me"] == pytest.approx(monitors.rank_me(features.reshape(96, -1)), rel=1e-3)
    assert command.main(argv) == 0
    assert "is finished" in capsys.readouterr().out
    assert command.main([*argv, "--labels=0.1"]) == 2
    assert "--labels is for protocols with labels" in capsys.readouterr().err


def test_the_number_of_devices_and_the_batch_change_nothing(run, run_module, monkeypatch, tmp_path):
    expected = evaluate(settings(run, "knn"))[0]
    shutil.rmtree(run / "eval")
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "3")
    out = tmp_path / "out.json"
    done = run_module("sit_jax.evaluate", f"--workdir={run}", "--protocol=knn", "--nobaseline", f"--out={out}")
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["confusion"] == expected["confusion"]
    assert found["results"] == expected["results"]


def test_few_labels_with_repeats(run):
    report, path = evaluate(settings(run, "linear", amounts=(Amount(share=0.1), Amount(share=1.0)), repeats=3))
    few, all_labels = (row["pretrained"] for row in report["results"])
    assert [row["num_train"] for row in report["results"]] == [9, 96]
    assert len(set(few["runs"])) > 1 and few["std"] == pytest.approx(np.std(few["runs"], ddof=1))
    assert few["top1"] == pytest.approx(np.mean(few["runs"]))
    assert few["top1"] < all_labels["top1"] == report["top1"]
    comparison = report["results"][0]["comparisons"]["pixels"]
    assert comparison["difference"] == pytest.approx(few["top1"] - report["results"][0]["pixels"]["top1"])
    assert comparison["p_value"] is None and report["comparisons"] == report["results"][1]["comparisons"]
    assert [text.partition(": pre-trained - pixels: ")[0] for text in comparison_lines(report).splitlines()] == [
        "labels 0.1",
        "labels 1.0",
    ]
    assert path.with_suffix(".labels.png").exists()


@pytest.mark.parametrize("protocol,overrides", [("linear", {}), ("linear", {"linear.epochs": 20.0}), ("finetune", {})])
def test_test_labels_influence_no_choice(root, run, protocol, overrides):
    """With scrambled test labels, the scores fall, and all chosen or trained values stay the same."""
    reports = []
    for name in ("own", "scrambled"):
        options = {"data": f"npz:{root / name}.npz", "overrides": TINY | overrides}
        reports.append(evaluate(settings(run, protocol, **options))[0])
    assert reports[0]["hyperparameters"] == reports[1]["hyperparameters"]
    predicted = [np.sum(report["confusion"], axis=0).tolist() for report in reports]
    assert predicted[0] == predicted[1]
    assert reports[0]["confusion"] != reports[1]["confusion"]
    if protocol == "linear":
        assert len(reports[0]["hyperparameters"]["held_out_cross_entropy"]) == (2 if overrides else 3)
        assert reports[0]["top1"] > 0.6 > 0.5 > reports[1]["top1"]


class StopAt:
    """Stands in for the signals: asks to stop after a number of updates."""

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        pass

    def interrupting(self):
        return contextlib.nullcontext()

    def requested(self, step):
        return step == 3


@pytest.mark.parametrize(
    "protocol,overrides", [("linear", {"linear.epochs": 4.0}), ("finetune", {"finetune.epochs": 4.0})]
)
def test_a_stopped_evaluation_goes_on_to_the_same_result(run, monkeypatch, protocol, overrides):
    what = settings(run, protocol, overrides=TINY | overrides, baseline=True)
    with monkeypatch.context() as patch:
        patch.setattr("sit_jax.train.run.StopSignal", StopAt)
        assert evaluate(what) is None
    stopped = next((run / "eval").rglob("checkpoints/3"))
    assert stopped.is_dir() and not list((run / "eval").glob("*.json"))
    went_on, path = evaluate(what)
    encoder = trained_encoder(path)
    shutil.rmtree(run / "eval")
    undisturbed, path = evaluate(what)
    if protocol == "linear":  # the held-out images are watched along the way
        lines = next(path.parent.glob("*/pretrained-1-0/metrics.jsonl")).read_text().splitlines()
        watched = [row for row in map(json.loads, lines) if "eval/loss" in row]
        assert len(watched) > 5 and watched[-1]["eval/loss"] < watched[0]["eval/loss"]
        assert watched[-1]["eval/top1"] > 0.5
        best = min(undisturbed["hyperparameters"]["held_out_cross_entropy"].values())
        assert watched[-1]["eval/loss"] == pytest.approx(best, rel=1e-6)
    assert went_on == undisturbed
    jax.tree.map(np.testing.assert_array_equal, encoder, trained_encoder(path))
    frozen = restore(run, None, "params", {}).params["encoder"]
    same = jax.tree.leaves(jax.tree.map(lambda a, b: np.array_equal(a, b), encoder, frozen))
    assert all(same) if protocol == "linear" else not any(same)


def trained_encoder(path):
    """The encoder in the last checkpoint of the pre-trained half of an evaluation."""
    steps = max((path.parent).glob("*/pretrained-1-0/checkpoints/*"), key=lambda step: int(step.name))
    return ocp.StandardCheckpointer().restore((steps / "state").absolute())["params"]["encoder"]


def test_hidden_layer_and_single_labels(run):
    overrides = TINY | {"linear.epochs": 1.0, "linear.hidden": 16}
    report, _ = evaluate(settings(run, "linear", overrides=overrides, amounts=(Amount(per_class=1),)))
    assert report["num_train"] == 3
    assert report["hyperparameters"]["held_out_cross_entropy"] == {}


def test_the_baseline_is_what_the_run_started_from_and_the_weights_are_its_last(run):
    restored = restore(run, None, "params", {})
    with jax.set_mesh(restored.mesh):
        start = init_state(restored.config, make_training(restored.config), restored.mesh).params["model"]["encoder"]
    jax.tree.map(np.testing.assert_array_equal, restored.random_params["encoder"], start)
    saved = ocp.StandardCheckpointer().restore((run / "checkpoints" / "2" / "state").absolute())
    for weights in ("params", "ema"):
        encoder = restore(run, 2, weights, {}).params["encoder"]
        jax.tree.map(np.testing.assert_array_equal, encoder, saved[weights]["model"]["encoder"])
    assert restored.params.keys() == {"encoder"}
    assert restored.fingerprint() != restore(run, 2, "ema", {}).fingerprint()


def test_another_resolution_resizes_the_position_embeddings_and_says_so(run, capsys):
    restored = restore(run, None, "params", {"model.image_size": 16})
    assert "position embeddings are resized from 8 to 16 px" in capsys.readouterr().out
    assert restored.params["encoder"]["position_embedding"].shape == (2 + 16, 32)


def test_a_checkpoint_of_another_model_is_a_table_of_names_and_shapes(run, capsys):
    config = json.loads((run / "config.json").read_text())
    config["model"]["size"] = "Ti"
    (run / "config.json").write_text(json.dumps(config))
    assert command.main(["evaluate", f"--workdir={run}", "--protocol=knn"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "is of another model" in lines[0] and lines[1].split("  ")[0] == "array"
    assert any(line.split()[0] == "encoder/tokens" and "(2, 32)  " in line and "(2, 192)" in line for line in lines)


def test_without_a_test_split_a_tenth_stands_in_and_names_are_those_of_the_folders(run, tmp_path):
    rng = np.random.default_rng(0)
    for name, level in (("cat", 40), ("dog", 160)):
        (tmp_path / "folder" / name).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(level, level + 60, (9, 11, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "folder" / name / f"{i}.png")
    report, _ = evaluate(settings(run, "linear", data=f"folder:{tmp_path / 'folder'}"))
    assert report["test_split"].startswith("a tenth of the training images")
    assert (report["num_train"], report["num_test"], report["class_names"]) == (36, 4, ["cat", "dog"])
    assert report["top1"] == 1.0
    assert report["pretrained_on"].endswith("own.npz")
    assert not report["transductive"]  # the encoder has seen other images
    make_run(tmp_path / "own", f"folder:{tmp_path / 'folder'}")
    report = evaluate(settings(tmp_path / "own", "knn", data=f"folder:{tmp_path / 'folder' / '..' / 'folder'}"))[0]
    assert report["transductive"]
    assert "transductive: the encoder was pre-trained on them, without labels" in reports.title(report)


ODD = [os.fsdecode(b"caf\xff"), "$x^{$ _", "a\nb"]  # bytes that are not UTF-8, broken formulas, a line break


def write_classes(folder, names):
    rng = np.random.default_rng(0)
    for level, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(60 * level, 60 * level + 60, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


def test_class_names_of_any_bytes_are_shown_replaced(run, tmp_path, capfd):
    """On screen, in the picture and in the JSON."""
    folder = tmp_path / os.fsdecode(b"odd\xfe")
    write_classes(folder, ODD)
    argv = ["evaluate", f"--workdir={run}", "--protocol=knn", f"--data=folder:{folder}", f"--out={tmp_path}/out.json"]
    assert command.main(argv) == 0
    captured = capfd.readouterr()
    assert f"{tmp_path}/odd?" in captured.out and "warning" not in captured.err
    report = json.loads((tmp_path / "out.json").read_bytes().decode("utf-8"))
    assert sorted(report["class_names"]) == ["$x^{$ _", "a?b", "caf?"]
    assert report["data"] == f"folder:{tmp_path}/odd?"
    assert Image.open(tmp_path / "out.confusion.png").size[0] > 300
    (path,) = (run / "eval").glob("*.json")
    assert path.name.startswith("knn-folder-odd-")


def test_a_picture_that_fails_is_a_warning(run, monkeypatch, capsys):
    def fail(*args):
        assert len(list((run / "eval").glob("*.json"))) == 1  # the report is written first
        raise OSError("No space left on device")

    monkeypatch.setattr(reports.plots, "confusion", fail)
    report, path = evaluate(settings(run, "knn"))
    assert json.loads(path.read_text()) == report
    assert "its pictures cannot be drawn (No space left on device); the report is complete" in capsys.readouterr().err


def test_two_copies_of_a_folder_have_their_own_reports(run, tmp_path):
    write_classes(tmp_path / "a", ["x", "y"])
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    done = [evaluate(settings(run, "knn", data=f"folder:{tmp_path / name}")) for name in ("a", "b")]
    assert [report["data"] for report, _ in done] == [f"folder:{tmp_path}/a", f"folder:{tmp_path}/b"]
    assert done[0][0]["top1"] == done[1][0]["top1"] and done[0][1] != done[1][1]


@pytest.mark.parametrize(
    "first, second, same",
    [
        ("folder:a", "a", True),
        ("a", "./a/", True),
        ("folder:a", "folder:b", False),
        ("npz:a.npz", "a.npz", True),
        ("digits", "digits", True),
        ("digits", "a", False),
    ],
)
def test_the_same_data_is_recognised_however_it_is_written(tmp_path, monkeypatch, first, second, same):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a.npz").touch()
    assert same_source(first, second) is same


def test_a_report_of_many_classes_is_small(run, tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(900) % 300
    images = rng.integers(0, 256, (900, 8, 8, 3), np.uint8)
    np.savez(
        tmp_path / "many.npz", train_images=images, train_labels=labels, test_images=images[::-1], test_labels=labels
    )
    report, path = evaluate(settings(run, "knn", data=f"npz:{tmp_path / 'many.npz'}"))
    confusion = report["confusion"]
    assert confusion["classes"] == 300 and len(confusion["entries"]) == 200
    wrong = round(900 * (1 - report["top1"]))
    assert 200 < sum(count for _, _, count in confusion["entries"]) <= wrong
    assert sum(count for _, _, count in confusion["entries"]) + confusion["left_out"] == 900
    assert max(file.stat().st_size for file in (run / "eval").rglob("*.json")) < 150_000
    assert path.with_suffix(".confusion.png").exists()


@pytest.mark.parametrize(
    "arguments,expected",
    [
        (["--protocol=knn"], "--workdir is missing"),
        (["--workdir=ROOT/run"], "--protocol is missing"),
        (["--workdir=ROOT/run", "--protocol=svm"], "knn|linear|finetune"),
        (["--workdir=ROOT/none", "--protocol=knn"], "no run is there"),
        (["--workdir=ROOT/empty", "--protocol=knn"], "holds no checkpoint yet"),
        (["--workdir=ROOT/run", "--protocol=knn", "--step=7"], "--step=7: there is no such checkpoint; ROOT/run has 2"),
        (["--workdir=ROOT/run", "--protocol=knn", "--data=folder:ROOT/flat"], "has no labels"),
        (["--workdir=ROOT/run", "--protocol=knn", "--data=digit"], "the forms are "),
        (["--workdir=ROOT/run", "--protocol=linear", "--labels_per_class=33"], "class 0 has 32 training images"),
        (["--workdir=ROOT/run", "--protocol=linear", "--labels=2"], "--labels=2 must be a share"),
        (["--workdir=ROOT/run", "--protocol=knn", "--out=/proc/none/out.json"], "--out=/proc/none/out.json: cannot be"),
        (["--workdir=ROOT/run", "--protocol=knn", "--out=ROOT/out.txt"], "must end in .json"),
        (["--workdir=ROOT/run", "--protocol=knn", "--config.model.size=B"], "--config.model.size is fixed"),
        (
            ["--workdir=ROOT/run", "--protocol=knn", "--config.model.siz=B"],
            "--config.model.siz: there is no such key (did you mean model.size?); the keys of model are",
        ),
        (["--workdir=ROOT/run", "--protocol=finetune", "--features=concat"], "--protocol=finetune takes tokens"),
        (["--workdir=ROOT/run", "--protocol=linear", "--config.linear.hidden=8"], "set linear.epochs above 0"),
        (
            ["--workdir=ROOT/run", "--protocol=finetune", "--config.finetune.augment.flip=2."],
            "augment.flip=2.0 must be",
        ),
        (["--workdir=ROOT/blocked", "--protocol=knn"], "ROOT/blocked/eval: results cannot be written there"),
        (["--workdir=ROOT/noema", "--protocol=knn", "--weights=ema"], "kept no running average"),
        (["--workdir=ROOT/cut", "--protocol=knn"], "cannot be read"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(root, capsys, arguments, expected):
    if not (root / "noema").exists():
        shutil.copytree(root / "run", root / "cut")
        for path in (root / "cut" / "checkpoints" / "2" / "state").rglob("*"):
            if path.is_file() and path.stat().st_size > 1000:
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        shutil.copytree(root / "run", root / "blocked")
        (root / "blocked" / "eval").write_text("a file in place of the folder")
        (root / "flat").mkdir()
        Image.new("RGB", (9, 9)).save(root / "flat" / "1.png")
        shutil.copytree(root / "run", root / "empty")
        shutil.rmtree(root / "empty" / "checkpoints")
        make_run(root / "noema", f"npz:{root / 'own.npz'}")
    before = sorted(root.rglob("*"))
    assert command.main(["evaluate", *(argument.replace("ROOT", str(root)) for argument in arguments)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    assert expected.replace("ROOT", str(root)) in lines[0]
    assert sorted(root.rglob("*")) == before


def test_help_lists_the_options(capsys):
    with pytest.raises(SystemExit) as done:
        command.main(["evaluate", "--help"])
    printed = capsys.readouterr().out
    assert done.value.code == 0
    assert "--labels_per_class" in printed and "the data set of the run" in printed and len(printed.splitlines()) < 60


def test_transfer_fills_the_grid(root, run, tmp_path, capsys):
    make_run(tmp_path / "second", f"npz:{root / 'other.npz'}", **{"data.image_size": 12, "seed": 1})
    out = tmp_path / "grid.json"
    argv = ["transfer", f"--workdirs={run},{tmp_path / 'second'}", "--protocol=knn", f"--out={out}"]
    assert transfer.main(argv) == 0
    grid = json.loads(out.read_text())["grid"]
    assert len(grid) == 4 and all(len(row) == 2 for row in grid.values())
    printed = capsys.readouterr().out
    assert "nothing (random weights)" in printed and "nothing (pixels)" in printed
    values = [cell["top1"] for row in grid.values() for cell in row.values()]
    assert all(0.2 < value <= 1 for value in values) and len(set(values)) > 2
    for cell in (cell for row in grid.values() for cell in row.values()):
        assert (
            cell["interval"][0] <= cell["top1"] <= cell["interval"][1] and f"{cell['interval'][1]:.1%}"[:-1] in printed
        )
    assert out.with_suffix(".png").exists()
    assert transfer.main([*argv[:1], f"--workdirs={run}", *argv[2:]]) == 2
