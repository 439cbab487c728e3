"""The package and its command: what an import loads, the table of commands, help, configurations, the wheel."""

import importlib
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time
import venv

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import sit_jax
from sit_jax import __main__ as command
from sit_jax.common import allocator, commands
from sit_jax.config import named

ROWS = sorted(command.COMMANDS)


def python(code, **kwargs):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, **kwargs)


def test_an_import_loads_neither_jax_nor_numpy_and_leaves_signals_alone():
    code = """
import signal, sys
before = [signal.getsignal(number) for number in signal.valid_signals()]
import sit_jax
assert before == [signal.getsignal(number) for number in signal.valid_signals()]
assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
print(sorted({name.partition(".")[0] for name in sys.modules} & {"absl", "flax", "jax", "numpy", "ml_collections"}))
"""
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        done = python(code)
        seconds.append(time.perf_counter() - begin)
        assert (done.stdout, done.stderr) == ("[]\n", "")
    assert min(seconds) < 0.5  # with the start of Python; the least, because the machine is shared


def test_lazy_names_exist_and_another_name_does_not():
    assert {name: getattr(sit_jax, name).__name__ for name in sit_jax.LAZY} == {name: name for name in sit_jax.LAZY}
    assert set(dir(sit_jax)) == {*sit_jax.LAZY, "__version__"}
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        sit_jax.nothing  # noqa: B018


@pytest.mark.parametrize("name", ROWS)
def test_help_is_one_screen_with_examples_first(name, capsys, monkeypatch):
    module = importlib.import_module(command.COMMANDS[name][0])
    monkeypatch.setattr(commands, "enable_compilation_cache", lambda: None)
    with pytest.raises(SystemExit) as ended:
        module.main([name, "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    title, examples = text.split("\n\n")[:2]
    assert f"`sit-jax {name}`" in title and f"`python -m {module.__name__}`" in " ".join(title.split())
    assert all(line.startswith(f"  sit-jax {name} ") for line in examples.splitlines())
    assert len(text.splitlines()) <= 40 and max(map(len, text.splitlines())) <= 100
    assert not re.search("flagfile|undefok|helpxml|logtostderr|verbosity", text)


@pytest.mark.parametrize(
    "words,code,out,error",
    [
        ([], 0, "examples:\n  sit-jax pretrain PHOTOS", ""),
        (["--help"], 0, "examples:\n  sit-jax pretrain PHOTOS", ""),
        (["--version"], 0, f"sit_jax {sit_jax.__version__}\n", ""),
        (["pretrian"], 2, "", "error: sit-jax pretrian: there is no such command; did you mean pretrain?\n"),
        (["pretrain"], 2, "", "error: the folder of images is missing; for example sit-jax pretrain PHOTOS\n"),
        (["xyz"], 2, "", "error: sit-jax xyz: there is no such command; the commands are pretrain, evaluate, "),
    ],
)
def test_the_command_without_a_row(words, code, out, error, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sit-jax", *words])
    assert command.main() == code
    said = capsys.readouterr()
    assert out in said.out and said.err.startswith(error) and len(said.err.splitlines()) == bool(error)
    assert len(said.out.splitlines()) <= 40


@pytest.mark.parametrize(
    "words,module,expected",
    [
        ("pretrain P", "sit_jax.main", "--config=folder --config.data.source=P"),
        ("pretrain tar:a.tar --seed=1", "sit_jax.main", "--config=folder --config.data.source=tar:a.tar --seed=1"),
        ("pretrain P --fit --config=digits:x=1", "sit_jax.main", "--config=digits:x=1 --config.data.source=P --fit"),
        ("pretrain P --fit --config digits", "sit_jax.main", "--config digits --config.data.source=P --fit"),
        ("pretrain P --config.seed=1", "sit_jax.main", "--config=folder --config.data.source=P --config.seed=1"),
        ("pretrain --config=digits", "sit_jax.main", "--config=digits"),
        ("pretrain --workdir w P", "sit_jax.main", "--config=folder --config.data.source=P --workdir w"),
        (
            "pretrain --fit P --config.seed 1",
            "sit_jax.main",
            "--config=folder --config.data.source=P --fit --config.seed 1",
        ),
        ("embed --workdir=w", "sit_jax.embed", "--workdir=w"),
        ("prepare tfds:stl10", "sit_jax.data.prepare", "tfds:stl10"),
    ],
)
def test_each_row_is_python_m_of_its_module(words, module, expected, monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr(os, "execv", lambda path, argv: started.append(argv))
    monkeypatch.setattr(sys, "argv", ["sit-jax", *words.split()])
    for folder, flags in ((ROOT, []), (tmp_path, ["-P"])):
        monkeypatch.chdir(folder)
        command.main()
        assert started.pop() == [sys.executable, *flags, "-m", module, *expected.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("words", ["sit_jax pretrain", "sit_jax.main"])
def test_a_training_blocks_sigterm_and_has_the_memory_settings(words, tmp_path):
    env = {name: text for name, text in os.environ.items() if name not in allocator.VARIABLES}
    with pytest.MonkeyPatch.context() as patch:
        for name in allocator.VARIABLES:
            patch.delenv(name, raising=False)
        expected = {f"{name}={text}" for name, text in allocator.settings().items()}
    command = [sys.executable, "-m", *words.split(), "--config=digits:runlocal", f"--workdir={tmp_path / 'run'}"]
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 20
        while not (blocks_sigterm(process.pid) and expected <= environment(process.pid)):
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()


def blocks_sigterm(pid):
    blocked = re.search(r"^SigBlk:\s*(\w+)", pathlib.Path(f"/proc/{pid}/status").read_text(), re.M)
    return bool(blocked) and bool(int(blocked[1], 16) >> (signal.SIGTERM - 1) & 1)


def environment(pid):
    return set(pathlib.Path(f"/proc/{pid}/environ").read_text().split("\0"))


def test_names_of_configurations_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert named.names() == sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
    assert named.as_path("stl10:paper") == f"{ROOT / 'configs' / 'stl10.py'}:paper"
    assert named.as_path("./own.py:x=1") == "./own.py:x=1"
    for name in named.names():  # some start from another file
        assert named.load_config(name, "").to_dict() == named.load_config(f"{ROOT}/configs/{name}.py", "").to_dict()
    assert named.load_config("stl10:paper", "").model.size == "B"


def test_an_unknown_name_is_one_line_with_the_nearest_and_the_list(run_module):
    done = run_module("sit_jax.main", "--config=st10:paper")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith("error: --config=st10: there is no such file (did you mean stl10?)")
    assert ", ".join(named.names()) in done.stderr


# The wheel, in an empty environment


def call(*words, cwd, **variables):
    env = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"} | variables
    done = subprocess.run(
        [*map(str, words)], cwd=cwd, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=280
    )
    assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


def build(out):
    """Builds the sdist and, from it, the wheel; returns their bytes by name."""
    env = os.environ | {"SOURCE_DATE_EPOCH": "1767225600"}
    words = [sys.executable, "-m", "build", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    return {path.name: path.read_bytes() for path in out.iterdir()}


SHORT = "--workdir=runs/mine --config.steps=20"


@pytest.mark.slow
def test_a_wheel_builds_to_the_same_bytes_and_trains_in_an_empty_environment(tmp_path):
    built = build(tmp_path / "first")
    assert {name.rpartition(".")[2] for name in built} == {"whl", "gz"}
    assert build(tmp_path / "second") == built
    wheel = next((tmp_path / "first").glob("*.whl"))
    venv.create(tmp_path / "env", with_pip=True)
    bin_, away = tmp_path / "env" / "bin", tmp_path / "away"
    (away / "photos").mkdir(parents=True)
    site = next((tmp_path / "env" / "lib").glob("python3.*")) / "site-packages"
    call(bin_ / "pip", "install", "--quiet", wheel, cwd=away)
    ours = sorted(path.name for path in site.iterdir() if "sit_jax" in path.name or path.name in ("configs", "tests"))
    assert ours == ["sit_jax", f"sit_jax-{sit_jax.__version__}.dist-info"]
    assert (site / "sit_jax" / "py.typed").is_file()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 255, (32, 40, 40, 3), np.uint8)):
        Image.fromarray(pixels).save(away / "photos" / f"{i}.png")
    said = call(bin_ / "sit-jax", *shlex.split(f"pretrain photos --config=folder:runlocal {SHORT}"), cwd=away)
    assert "  sit-jax embed --workdir=runs/mine" in said and "page: runs/mine/report.html" in said
    assert '<section id="map"' in (away / "runs" / "mine" / "report.html").read_text()
    call(bin_ / "sit-jax", *shlex.split("duplicates --images=photos --out=copies.png"), cwd=away)
    call(bin_ / "sit-jax", *shlex.split("embed --workdir=runs/mine --images=photos --out=f.npz"), cwd=away)
    features = np.load(away / "f.npz")["features"]
    assert len(features) == 32 and np.isfinite(features).all()
    lines = (
        "import numpy, sit_jax; encoder = sit_jax.load('runs/mine'); features = encoder('photos'); "
        "assert isinstance(encoder, sit_jax.Encoder); "
        "numpy.testing.assert_array_equal(features, numpy.load('f.npz')['features']); "
        "numpy.testing.assert_array_equal(sit_jax.SiTFeatures('runs/mine').transform('photos'), features); "
        "print(sit_jax.pretrain('photos', 'runs/mine', 'folder:runlocal', steps=20).config['steps'])"
    )
    assert call(bin_ / "python", "-c", lines, cwd=away).endswith("20\n")
    # An editable installation finds the same files in the clone.
    call(bin_ / "pip", "install", "--quiet", "--no-deps", "--editable", ROOT, cwd=away)
    lines = "import sit_jax.config.named as named; print(named.FOLDER)"
    assert call(bin_ / "python", "-c", lines, cwd=away) == f"{ROOT / 'configs'}\n"
    assert call(bin_ / "sit-jax", "--version", cwd=away) == f"sit_jax {sit_jax.__version__}\n"


@pytest.mark.parametrize(
    "words,expected",
    [
        ("P Q", "pretrain takes one SOURCE, and 'P' and 'Q' are two; for several folders: folder:A,B"),
        ("P --config.data.source=Q", "'P' and --config.data.source=Q both name the images; keep one of them"),
    ],
)
def test_two_sources_are_one_line(words, expected, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sit-jax", "pretrain", *words.split()])
    monkeypatch.setattr(os, "execv", None)
    assert command.main() == 2
    assert capsys.readouterr().err == f"error: {expected}\n"
