"""The configuration files of this project, by name from any folder: `--config=stl10:paper`."""

import importlib.util
import os
import pathlib
from types import ModuleType

import ml_collections

import sit_jax
from sit_jax.common.errors import InputError

PACKAGE = pathlib.Path(sit_jax.__file__).parent
# An installed package holds the files; in a clone they lie beside the package.
FOLDER = next(folder for folder in (PACKAGE / "configs", PACKAGE.parent / "configs") if folder.is_dir())


def names() -> list[str]:
    """Returns the names of all built-in configurations, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")


def builtin(name: str) -> ModuleType:
    """Returns the module of a built-in configuration; a configuration file starts from another file by this."""
    return load(FOLDER / f"{name}.py")


def load(path: pathlib.Path) -> ModuleType:
    """Runs a configuration file and returns its module; raises InputError if it is no Python file."""
    spec = importlib.util.spec_from_file_location("config_file", path)
    if spec is None or spec.loader is None:
        raise InputError("is not a Python file; give a file such as configs/folder.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_config(config: str, argument: str) -> ml_collections.ConfigDict:
    """Returns the configuration of a name or path with arguments after a colon, and with one more argument.

    Raises InputError if there is no such file.
    """
    path, _, arguments = as_path(config).partition(":")
    if not pathlib.Path(path).is_file():
        raise InputError(f"config={config!r}: there is no such file; the names are {', '.join(names())}")
    arguments = ",".join(filter(None, [arguments, argument]))
    module = load(pathlib.Path(path))
    if not hasattr(module, "get_config"):
        raise InputError(f"config={config!r}: has no function get_config; copy a file of configs/")
    return module.get_config(*([arguments] if arguments else []))


def with_paths(argv: list[str]) -> list[str]:
    """Returns a command line in which the path of the file replaces the name of a built-in configuration, and a ~."""
    replaced = list(argv)
    for i, word in enumerate(argv):
        option, equals, value = word.partition("=")
        if option.lstrip("-") != "config" or not option.startswith("-"):
            continue
        if equals:
            replaced[i] = f"{option}={as_path(value)}"
        elif i + 1 < len(argv):
            replaced[i + 1] = as_path(argv[i + 1])
    return replaced


def as_path(config: str) -> str:
    """Returns the value of --config with the path of the file for the name of a built-in one, and for a leading ~."""
    name, colon, arguments = config.partition(":")
    return f"{FOLDER / name}.py{colon}{arguments}" if name in names() else os.path.expanduser(config)
