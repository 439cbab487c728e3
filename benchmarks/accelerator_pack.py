"""Packs the files that `benchmarks/accelerator.py` needs on a machine without a network, or unpacks and checks them.

python benchmarks/accelerator_pack.py OUT --data=FILE.npz     writes OUT/wheels, OUT/images-0.npz, ..., OUT/tree.tar.gz
python benchmarks/accelerator_pack.py OUT --check=python3.12  tries all imports in a copy of that machine's environment
python benchmarks/accelerator_pack.py OUT --unpack=FILE.npz   on that machine: joins the images of all available parts
FILE.npz holds train_images, train_labels, test_images and test_labels, like `npz:FILE.npz` in a configuration.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks.accelerator_stages.machine import requirement_lines
from benchmarks.mosaics import read_parts, write_parts
from sit_jax.common.errors import InputError

ROOT = pathlib.Path(__file__).resolve().parent.parent
SPLITS, KINDS = ("train", "test"), ("images", "labels")
PYTHON = "3.12"  # of that machine
MACHINE = ROOT / "benchmarks" / "accelerator_machine.txt"
# Packages of requirements.txt and of grain that MACHINE does not list; that machine needs no TensorFlow Datasets.
CARRIED = ("ml-collections", "clu", "grain", "array-record", "portpicker", "importlib-resources", "tensorboardX")
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")
LEFT_OUT = ("benchmarks.t", "benchmarks.library_peer", "benchmarks.decode")  # need PyTorch or OpenCV
IMPORTS = f"""import importlib, pathlib
paths = [path for folder in ("sit_jax", "configs", "benchmarks") for path in pathlib.Path(folder).rglob("*.py")]
names = sorted(".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths)
tried = [name for name in names if not name.startswith({LEFT_OUT})]
for name in tried:
    importlib.import_module(name)
print(len(tried), "modules import; left out:", ", ".join(sorted(set(names) - set(tried))))
"""


def pack(out: pathlib.Path, data: pathlib.Path) -> None:
    """Collects wheels, images and the tree of the last commit in `out`; raises InputError on failure."""
    if not data.is_file():
        raise InputError(f"--data={data} does not exist; give an array file with train_images and so on")
    check_arrays(data)
    shutil.rmtree(out / "wheels", ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    download(out / "wheels")
    for old in out.glob("images-*.npz"):
        old.unlink()
    write_parts(data, out, "images")
    run("git", "-C", str(ROOT), "archive", "--output", str((out / "tree.tar.gz").resolve()), "HEAD")
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        print(f"{path.stat().st_size / 2**20:8.2f} MiB  {path}")


def check_arrays(data: pathlib.Path) -> None:
    """Raises InputError if an array file does not hold images and labels of both splits."""
    try:
        with np.load(data) as arrays:
            missing = [f"{split}_{kind}" for split in SPLITS for kind in KINDS if f"{split}_{kind}" not in arrays.files]
    except (OSError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"--data={data} is not an array file (.npz)") from error
    if missing:
        raise InputError(f"--data={data} lacks {', '.join(missing)}")


def download(folder: pathlib.Path) -> None:
    """Downloads the wheels of CARRIED in the versions that requirements.txt allows."""
    admitted = {line.partition(">=")[0].lower(): line for line in requirement_lines(ROOT / "requirements.txt")}
    wanted = [admitted.get(name.lower(), name) for name in CARRIED]
    platforms = [f"--platform={name}_x86_64" for name in PLATFORMS]
    options = ["--no-deps", "--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp", *platforms]
    run(sys.executable, "-m", "pip", "download", "-q", *options, "-d", str(folder), *wanted)


def check(out: pathlib.Path, python: str) -> None:
    """Imports all modules of the packed tree in a new environment of MACHINE's packages and the packed wheels."""
    wheels = sorted((out / "wheels").glob("*.whl"))
    if not wheels or not (out / "tree.tar.gz").is_file():
        raise InputError(f"{out} holds no pack; make it with --data=FILE.npz first")
    if not shutil.which(python) or version(python) != PYTHON:
        raise InputError(f"--check={python} must be a Python {PYTHON}, as on that machine")
    with tempfile.TemporaryDirectory() as folder:
        environment, tree, site = (pathlib.Path(folder) / name for name in ("environment", "tree", "site"))
        run(python, "-m", "venv", str(environment))
        there = str(environment / "bin" / "python")
        run(there, "-m", "pip", "install", "-q", "--no-deps", "-r", str(MACHINE))
        run(there, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", str(site), *map(str, wheels))
        shutil.unpack_archive(out / "tree.tar.gz", tree)
        run(there, "-c", IMPORTS, cwd=tree, PYTHONPATH=f"{site}:{tree}", JAX_PLATFORMS="cpu")


def version(python: str) -> str:
    """Returns the version of an interpreter, such as "3.12"; empty if it does not run."""
    command = [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def unpack(out: pathlib.Path, target: pathlib.Path) -> None:
    """Writes the array file from the parts in `out`; raises InputError if there are none."""
    parts = sorted(out.glob("images-*.npz"))
    if not parts:
        raise InputError(f"{out} holds no part images-N.npz; copy one there")
    try:
        arrays = read_parts(parts)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{out}: a part images-N.npz is damaged ({error}); copy it there again") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    np.savez(target, **arrays)
    print(f"{target}: {len(arrays['train_images'])} training and {len(arrays['test_images'])} test images")


def run(*command: str, cwd: pathlib.Path | None = None, **environment: str) -> None:
    """Runs a command; raises InputError with the last line of its stderr if it fails."""
    # Packages of this environment would hide missing packages in the other environment.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=inherited | environment, text=True, stderr=subprocess.PIPE)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"{' '.join(command).splitlines()[0][:100]} ... failed: {said}")


def main() -> int:
    """Runs the command and returns its exit code: 2 for wrong input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=pathlib.Path, metavar="FILE.npz")
    what.add_argument("--check", metavar="PYTHON")
    what.add_argument("--unpack", type=pathlib.Path, metavar="FILE.npz")
    args = parser.parse_args()
    try:
        if args.data:
            pack(args.out, args.data)
        elif args.check:
            check(args.out, args.check)
        else:
            unpack(args.out, args.unpack)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}; choose another folder", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
