"""Counts the wrong versions of a module that its tests let pass: mutants of Cosmic Ray, a seeded sample for each.

python benchmarks/mutation.py [--modules=losses,views] [--samples=40] [--seed=0] [--out=FILE.json] [--again=FILE.json]

A mutant is one changed operator, number or branch in a copy of the project. `--again` tries the survivors of a former
run alone. Operators are replaced by others of their kind, arithmetic or bitwise, and annotations stay: other mutants
raise TypeError at once and say nothing of the tests.
"""

import argparse
import ast
import difflib
import importlib
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings

import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = pathlib.Path(__file__).resolve().parent.parent
# What tests import, loaded once: each mutant runs in a fork of this process. Nothing here may start a backend of JAX.
LIBRARIES = ("jax.numpy", "optax", "flax.nnx", "scipy.stats", "sklearn.linear_model", "sklearn.neighbors", "hypothesis")
KINDS = ({"Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow"}, {"BitOr", "BitAnd", "BitXor", "RShift", "LShift"})
VIEWS = {  # by file of sit_jax/views: the tests that are about it; "views" alone is in the name of their file
    "augment": (
        "test_views",
        "crop or views_have or flip or whole or colour_operations or view_depends or a_share_of_the_v or blur_of_a",
    ),
    "blocks": ("test_views", "block"),
    "blur": ("test_views", "blur or each_operation"),
    "color": ("test_views", "hue or solarize or grayscale or jitter or flip or each_operation"),
    "corrupt": (
        "test_views",
        "each_operation or 0.25-2 or donor or drop_fills or blur_by or groups or recolouring or together",
    ),
    "mix": ("test_classification_views", "erase or mix or devices or partners or own_share"),
    "noise": ("test_views", "noise_is or drop_fills"),
    "randaugment": ("test_classification_views", "pillow or channels or flat_pic or randaugment or magnitudes"),
    "rotate": ("test_views", "rotation or turn"),
}
# By name: the mutated files in sit_jax/, the file of tests and which of them (an expression of pytest -k).
MODULES = {
    "losses": (("model/losses.py", "model/weighting.py"), "test_losses", ""),
    **{f"views/{name}": ((f"views/{name}.py",), *tests) for name, tests in VIEWS.items()},
    "knn": (("probes/knn.py",), "test_knn", "scikit or nearest or vote or unit_length"),
    "linear": (("probes/linear.py",), "test_linear", ""),
    "schedule": (("train/optimizer.py",), "test_config", "learning_rate or decay or log_variances or clipped"),
}


def is_useful(operator: str) -> bool:
    """Tells whether an operator of Cosmic Ray makes mutants that are not errors of types, and needs no arguments."""
    kind, *change = operator.removeprefix("core/").split("_")
    if kind == "ReplaceBinaryOperator":
        return any(set(change) <= names for names in KINDS)
    if kind == "ReplaceComparisonOperator":
        return ("Is" in change[0]) == ("Is" in change[1])  # `is` between numbers is no comparison
    return not get_operator(operator).arguments()


def mutants(file: str) -> list[dict]:
    """Returns all mutants of one file of sit_jax/: each names an operator and which of its places."""
    source = (ROOT / "sit_jax" / file).read_text()
    annotations = [
        ((part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset))
        for node in ast.walk(ast.parse(source))
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if part is not None
    ]
    tree, found = get_ast(source), []
    for name in filter(is_useful, operator_names()):
        operator = get_operator(name)()
        places = [place for node in ast_nodes(tree) for place in operator.mutation_positions(node)]
        for occurrence, (start, _) in enumerate(places):
            if not any(first <= start < last for first, last in annotations):
                found.append({"file": file, "operator": name, "occurrence": occurrence, "line": start[0]})
    return found


class Order:
    """A plug-in of pytest that runs the quickest tests first, so that a killed mutant costs little."""

    def __init__(self, path: pathlib.Path):
        self.path, self.seconds = path, json.loads(path.read_text()) if path.exists() else {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Sorts the tests by the time that they took in the unchanged project."""
        items.sort(key=lambda item: self.seconds.get(item.nodeid, 0.0))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes the time of a test."""
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration


def passes(copy: pathlib.Path, tests: str, expression: str, limit: float, measure: bool = False) -> bool | None:
    """Runs tests in a copy of the project, in a fork; returns whether all pass, None past `limit` seconds."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.setsid()
            os.chdir(copy)
            log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.dont_write_bytecode = True  # two mutants of a second and a size would pass for one another
            sys.path[:] = [str(copy), *(path for path in sys.path if not pathlib.Path(path).is_relative_to(ROOT))]
            order = Order(copy / f"{tests}.json")
            arguments = [f"tests/{tests}.py", "-x", "-q", "-k", expression, "--basetemp=temporary/pytest"]
            arguments += ["-o", "addopts=", "-m", "not slow", "-p", "no:xdist", "-p", "no:cacheprovider"]
            code = pytest.main(arguments, plugins=[order])
            if measure:
                order.path.write_text(json.dumps(order.seconds))
        finally:
            sys.stdout.flush()
            os._exit(int(code))
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.05)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def try_mutant(mutant: dict, copy: pathlib.Path, tests: str, expression: str, limit: float) -> dict:
    """Returns the mutant with its outcome (killed, survived or timed out), its seconds and its changed lines."""
    path = copy / "sit_jax" / mutant["file"]
    source = path.read_text()
    changed = mutate_code(source, get_operator(mutant["operator"])(), mutant["occurrence"])
    lines = difflib.unified_diff(source.splitlines(), changed.splitlines(), n=0, lineterm="")
    begin = time.monotonic()
    try:
        path.write_text(changed)
        passed = passes(copy, tests, expression, limit)
    finally:
        path.write_text(source)
    outcome = {None: "timed out", True: "survived", False: "killed"}[passed]
    return mutant | {"outcome": outcome, "seconds": time.monotonic() - begin, "diff": list(lines)[3:]}


def try_module(name: str, chosen: list[dict], copy: pathlib.Path) -> list[dict]:
    """Returns the mutants of a module with their outcomes; raises RuntimeError if the unchanged project fails."""
    _, tests, expression = MODULES[name]
    begin = time.monotonic()
    if not passes(copy, tests, expression, 3600.0, measure=True):
        raise RuntimeError(f"tests/{tests}.py fails without any mutant:\n{(copy / 'log.txt').read_text()[-2000:]}")
    limit = 60 + 5 * (time.monotonic() - begin)
    done = []
    for mutant in chosen:
        done.append(try_mutant(mutant, copy, tests, expression, limit))
        if done[-1]["outcome"] == "survived":
            print(f"{name}: {mutant['file']}:{mutant['line']}", *done[-1]["diff"], sep="\n  ", flush=True)
    return done


def main() -> None:
    """Tries the mutants and prints for each module how many survive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules", default="losses,views,knn,linear,schedule", help="names, or what they start with")
    parser.add_argument("--samples", type=int, default=40, help="mutants of each module; each file of views is one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="a JSON file of all outcomes")
    parser.add_argument("--again", help="a JSON file of a former run, whose survivors are tried")
    args = parser.parse_args()
    asked = args.modules.split(",")
    names = [name for name in MODULES if name in asked or name.split("/")[0] in asked]
    os.environ["JAX_PLATFORMS"] = "cpu"
    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
    for library in LIBRARIES:
        importlib.import_module(library)
    results = {}
    print(f"{'module':20} {'mutants':>7} {'killed':>7} {'timed out':>9} {'survived':>8} {'rate':>6}")
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "docs"))
        (copy / "temporary").mkdir()  # the cache of compiled programs comes here, and lasts from mutant to mutant
        for name in names:
            if args.again:
                former = json.loads(pathlib.Path(args.again).read_text())
                chosen = [mutant for mutant in former.get(name, []) if mutant["outcome"] == "survived"]
            else:
                every = [mutant for file in MODULES[name][0] for mutant in mutants(file)]
                chosen = random.Random(args.seed).sample(every, min(args.samples, len(every)))
            if not chosen:
                continue
            results[name] = try_module(name, chosen, copy)
            count = [sum(m["outcome"] == o for m in results[name]) for o in ("killed", "timed out", "survived")]
            line = f"{name:20} {len(chosen):7} {count[0]:7} {count[1]:9} {count[2]:8} {count[2] / len(chosen):6.0%}"
            print(line, flush=True)
            if args.out:
                pathlib.Path(args.out).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
