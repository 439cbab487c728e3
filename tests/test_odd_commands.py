"""Odd options of every command: each ends in one line and exit code 2, before any work, and leaves no file."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from configs import digits
from sit_jax import bench, curves, embed, evaluate, main, plan, reconstruct, transfer
from sit_jax.common import commands
from sit_jax.config import wrong
from sit_jax.config.resolve import resolve
from sit_jax.config.schema import defaults
from sit_jax.eval.stored import read_report, readable_source, report_path
from sit_jax.parallel.mesh import make_mesh
from sit_jax.train.announce import write_config
from sit_jax.train.checkpoint import Checkpoints
from sit_jax.train.state import init_state, make_training

pytestmark = pytest.mark.usefixtures("quick_compilation")
COMMANDS = {
    module.__name__.rpartition(".")[2]: module
    for module in (bench, curves, embed, evaluate, main, plan, reconstruct, transfer)
}
# Parts of the rows below.
KNN = "evaluate --workdir=ROOT/run --protocol=knn"
EMBED = "embed --workdir=ROOT/run --images=ROOT/pictures --out=ROOT/new.npz"
DRAW = "reconstruct --workdir=ROOT/run --test=2 --out=ROOT/new.png"
BOTH = "transfer --workdirs=ROOT/run,ROOT/list --protocol=knn --out=ROOT/new.json"
BENCH = "bench --config=configs/digits.py"
PLAN = "plan --topology=cpu:1 --config=configs/digits.py"
MAIN = "main --workdir=ROOT/new --config=configs/digits.py"

ROWS = [
    # a work directory that is none
    ("evaluate --workdir=ROOT/file --protocol=knn", "ROOT/file: no run is there"),
    ("evaluate --workdir=ROOT/list --protocol=knn", "ROOT/list/config.json: is damaged (it is no configuration)"),
    ("evaluate --workdir=ROOT/text --protocol=knn", "ROOT/text/config.json: is damaged (Expecting value"),
    ("evaluate --workdir= --protocol=knn", "--workdir has an empty value"),
    ("embed --workdir=ROOT/file --images=ROOT/pictures --out=ROOT/new.npz", "no run is there"),
    ("reconstruct --workdir=ROOT/list --test=2 --out=ROOT/new.png", "is damaged"),
    (BOTH, "ROOT/list/config.json: is damaged"),
    ("main --workdir=ROOT/list --config=configs/digits.py", "ROOT/list/config.json: is damaged"),
    ("main --workdir=ROOT/file --config=configs/digits.py", "ROOT/file"),
    ("main --workdir= --config=configs/digits.py", "--workdir has an empty value"),
    ("curves --runs=ROOT/file --out=ROOT/new.png", "ROOT/file has no line of metrics"),
    ("curves --runs=ROOT/run, --out=ROOT/new.png", "--runs has an empty value"),
    # numbers out of range
    (f"{KNN} --step=-1", "--step=-1: there is no such checkpoint"),
    (f"{KNN} --repeats=0", "--repeats=0"),
    (f"{KNN} --repeats=1000000000", "--repeats=1000000000"),
    (f"{KNN} --seed=-1", "--seed=-1"),
    ("evaluate --workdir=ROOT/run --protocol=unlabelled --seed=-1", "--seed=-1"),
    (f"{KNN} --labels=nan", "--labels=nan"),
    (f"{KNN} --config.eval.knn_temperature=inf", "eval.knn_temperature=inf must be a finite number"),
    (f"{KNN} --config.eval.knn_temperature=nan", "eval.knn_temperature=nan must be"),
    (f"{KNN} --config.data.image_size=-4", "image_size=-4"),
    (f"{EMBED} --batch_size=0", "--batch_size=0"),
    (f"{EMBED} --step=99999999999999999999", "there is no such checkpoint"),
    (f"{DRAW} --seed=100000000000000000000", "--seed=100000000000000000000"),
    (f"{DRAW} --drop=nan", "--drop=nan must be a number from 0 to 1"),
    (f"{DRAW} --limit=-1", "--limit=-1"),
    (f"{DRAW} --test=-1", "--test=-1"),
    (f"{BOTH} --seed=-1", "--seed=-1"),
    (f"{BENCH} --repeats=1000000000", "--repeats=1000000000"),
    (f"{BENCH} --random_images=0", "--random_images=0"),
    (f"{BENCH} --config.batch_size=0", "batch_size=0 must be at least 2"),
    (f"{BENCH} --config.epochs=nan", "epochs=nan must be a finite number"),
    (f"{BENCH} --config.optim.clip_norm=inf", "optim.clip_norm=inf must be a finite number"),
    (f"{BENCH} --config.views.hue=7", "views.hue=7.0 must be from 0 to 0.5"),
    (f"{BENCH} --config.views.area=(a,b)", "must be a range (low, high)"),
    (f"{BENCH} --config.mesh.fsdp=0", "mesh.fsdp=0 does not give the 4 devices"),
    (f"{MAIN} --config.seed=100000000000000000000", "seed=100000000000000000000 must be"),
    (f"{MAIN} --config.steps=-5", "the training is -5 steps long"),
    ("plan --topology=cpu:0 --config=configs/digits.py", "--topology=cpu:0 must be cpu:N"),
    # sources
    (f"{KNN} --data=", "--data has an empty value"),
    (f"{KNN} --data=folder:ROOT/pictures", "has no labels"),
    (f"{KNN} --data=digit", "the forms are"),
    (f"{DRAW} --data=", "--data has an empty value"),
    (f"{BOTH} --data=digits,", "--data has an empty value"),
    ("embed --workdir=ROOT/run --images=ROOT/none --out=ROOT/new.npz", "--images=ROOT/none: there is no such folder"),
    ("embed --workdir=ROOT/run --images=ROOT/empty --out=ROOT/new.npz", "holds no images"),
    ("reconstruct --workdir=ROOT/run --images=ROOT/empty/*.png --out=ROOT/new.png", "matches none"),
    # places to write
    (f"{KNN} --out=ROOT/empty", "must end in .json"),
    (f"{KNN} --out=ROOT/file/new.json", "cannot be written"),
    (f"{KNN} --out=ROOT/folder.json", "cannot be written"),
    ("evaluate --workdir=ROOT/closed --protocol=knn", "ROOT/closed/eval: results cannot be written there"),
    ("evaluate --workdir=ROOT/closed --protocol=unlabelled", "ROOT/closed/eval: results cannot be written there"),
    ("curves --runs=ROOT/run --out=ROOT/empty", "must end in .png"),
    (f"{PLAN} --out=ROOT/none/new.json", "there is no such folder"),
    (f"{PLAN} --out=ROOT/empty", "is a folder"),
    (f"{BENCH} --out=/proc/new.json", "--out=/proc/new.json: cannot be written"),
    # places in a remote store
    ("main --workdir=s3://b/run --config=digits", "--workdir=s3://b/run: only images are read from remote stores"),
    ("embed --workdir=s3://b/run --images=x --out=f.npz", "--workdir=s3://b/run: only images are read from"),
    ("transfer --workdirs=ROOT/run,s3://b/run --protocol=knn --out=f.json", "--workdirs=s3://b/run: only images are"),
    (f"{PLAN} --out=gs://b/p.json", "--out=gs://b/p.json: only images are read from"),
    (f"{BENCH} --trace=s3://b/trace", "--trace=s3://b/trace: only images are read from"),
    (f"{MAIN} --config.data.cache_dir=s3://b/c", "data.cache_dir=s3://b/c must be a folder of this machine"),
    (f"{KNN} --config.data.cache_dir=s3://b/c", "data.cache_dir=s3://b/c must be a folder of this machine"),
    # configurations
    (f"{PLAN} --config.no_such_key=1", "--config.no_such_key: there is no such key; the keys are batch_size, "),
    (f"{PLAN} --config.modl.size=S", "--config.modl.size: there is no such key (did you mean model.size?); the keys"),
    (f"{KNN} --config.model.image_sze=8", "(did you mean model.image_size?); the keys of model are attention, "),
    (f"{PLAN} --config.model.size.x=1", "--config.model.size.x: model.size is a value and has no keys"),
    (f"{PLAN} --config.model=1", "--config.model=1: model is a section; set one of its keys: model.attention, "),
    (f"{PLAN} --config.batch_size=many", "--config.batch_size=many: the value must be a whole number, such as 128"),
    (f"{KNN} --config.linear.epochs=many", "--config.linear.epochs=many: the value must be a number, such as"),
    (f"{KNN} --config.linear.epochs", "--config.linear.epochs: the value is missing"),
    (f"{PLAN} --config.data.skip_unreadable=maybe", "the value must be true or false"),
    (f"{KNN} --config.linear.l2=many", "linear.l2=('many',) must be one or more numbers"),
    (f"{KNN} --config=configs/digits.py", "leave --config out, or change a key with"),
    (
        "plan --topology=cpu:1 --config=configs/foldr.py",
        "(did you mean folder?); give a path, or one of the names cifar10,",
    ),
    ("plan --topology=cpu:1 --config=configs", "--config=configs: there is no such file"),
    ("plan --topology=cpu:1 --config=foldr", "there is no such file (did you mean folder?)"),
    ("plan --topology=cpu:1 --config=", "--config=: there is no such file"),
    ("plan --topology=cpu:1 --config=ROOT/file", "is not a Python file"),
    ("plan --topology=cpu:1 --config=ROOT/fails.py", "cannot be loaded (ZeroDivisionError: division by zero)"),
    ("plan --topology=cpu:1 --config=configs/folder.py:tiny", "config argument 'tiny' is unknown; known: variant, res"),
    ("plan --topology=cpu:1 --config=configs/folder.py:varant=S/4", "(did you mean variant?)"),
    ("plan --topology=cpu:1 --config=configs/folder.py:res=x", "res=x must be a whole number"),
    ("plan --config.seed=1 --config=configs/digits.py", "--config is missing before --config.seed"),
    ("main --config.seed=1", "--config is missing; for example"),
    (f"{MAIN} stray", "'stray' is not understood"),
    (f"{MAIN} --no_such_option", "no_such_option"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A run without a training, pictures without labels, and files and folders that are no run."""
    root = tmp_path_factory.mktemp("odd")
    config = digits.get_config("runlocal")
    config.model.image_size = 8
    config = resolve(config, 1437)
    for name in ("run", "closed", "list", "text"):
        write_config(root / name, config)
    for name in ("run", "closed"):
        checkpoints = Checkpoints(root / name, keep_latest=1, keep_best=0)
        checkpoints.save(init_state(config, make_training(config), make_mesh()), 2, None)
        checkpoints.close()
    (root / "closed" / "eval").symlink_to("/proc/sys")  # not even root writes there
    (root / "run" / "metrics.jsonl").write_text('{"step": 1, "epoch": 1.0}\n')
    (root / "list" / "config.json").write_text("[1]")
    (root / "list" / "checkpoints" / "2").mkdir(parents=True)
    (root / "text" / "config.json").write_text("no JSON")
    (root / "file").write_text("something")
    (root / "fails.py").write_text("def get_config():\n    return 1 / 0\n")
    for name in ("empty", "pictures", "folder.json"):
        (root / name).mkdir()
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(root / "pictures" / "one.png")
    return root


@pytest.mark.parametrize("line,expected", ROWS, ids=[line for line, _ in ROWS])
def test_odd_options_end_in_one_line(root, capsys, line, expected):
    argv = line.replace("ROOT", str(root)).split()
    before = sorted(root.rglob("*"))
    assert COMMANDS[argv[0]].main(argv) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ") and "Traceback" not in lines[0]
    assert expected.replace("ROOT", str(root)) in lines[0]
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize("name,resumes", [(name, name in ("evaluate", "main", "transfer")) for name in COMMANDS])
def test_a_stopped_command_says_whether_it_resumes(monkeypatch, capsys, name, resumes):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "enable_compilation_cache", stop)  # as by a signal
    assert COMMANDS[name].main([name]) == 75
    words = "run the same command to resume" if resumes else "no result was written; the same command begins again"
    assert f"stopped by a signal; {words}\n" == capsys.readouterr().out
    if name == "evaluate":
        assert evaluate.main([name, "--protocol=unlabelled"]) == 75
        assert "begins again" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["--config.seed", "-1"],
        ["--config.seed=0x10"],
        ["--config.data.skip_unreadable"],
        ["--noconfig.data.skip_unreadable"],
        ["--config.steps=7", "--config.views.area", "(0.5, 1.0)"],
        ["-config.epochs=1e-3", "--config.data.source="],
        ["--config.optim.warmup_steps", "3", "--config.mesh.fsdp=-1"],
    ],
)
def test_right_options_are_not_called_wrong(words):
    assert wrong.explain(["command", *words], defaults()) == ""


def test_names_of_reports(tmp_path, monkeypatch):
    """They show the source; another path to the same source is the same report, another source never is."""
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path)
    path = report_path(tmp_path, "knn", f"folder:{tmp_path}/a/My Photos", [1])
    assert path.name.startswith("knn-folder-My-Photos-") and path.parent == tmp_path / "eval"
    assert path == report_path(tmp_path, "knn", "folder:b/../a/My Photos", [1])
    others = [("folder:c/My Photos", [1]), ("folder:a/My Photos", [2]), ("npz:a/My Photos", [1])]
    assert len({path, *(report_path(tmp_path, "knn", source, values) for source, values in others)}) == 4
    assert readable_source("digits") == "digits"
    assert readable_source("folder:/") == "folder"
    assert readable_source(f"folder:{os.fsdecode(b'/a/x' + bytes([255, 254]) + b'/')}") == "folder-x"
    assert len(readable_source("tar:" + "x" * 300)) == 40


def test_a_damaged_report_is_written_again(tmp_path, capsys):
    path = tmp_path / "report.json"
    assert read_report(path) is None and capsys.readouterr().err == ""
    path.write_text("{")
    assert read_report(path) is None and "is damaged" in capsys.readouterr().err
    path.write_text(json.dumps({"top1": 1}))
    assert read_report(path) == {"top1": 1}
