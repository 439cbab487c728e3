"""What is wrong with --config options, in one line: the whole key, the nearest name, and the list of what there is."""

import difflib
import itertools
import pathlib
import re
from collections.abc import Iterable
from typing import Any

import ml_collections
from absl import flags

from sit_jax.common.errors import InputError
from sit_jax.config import named
from sit_jax.config.rules import lookup
from sit_jax.config.schema import defaults

# By type of a key: its name in a message, and what raises if a text is no such value.
TYPES: dict[type, tuple[str, Any]] = {
    bool: ("true or false", flags.BooleanParser().parse),
    int: ("a whole number", flags.IntegerParser().parse),
    float: ("a number", flags.FloatParser().parse),
}


def explain(argv: list[str], config: ml_collections.ConfigDict | None = None) -> str:
    """Returns what is wrong with the --config options of a command line; empty if nothing is found.

    Without `config`, --config=FILE:ARGUMENTS gives the configuration. With it, the command takes no file.
    """
    name = next((value or "" for key, value in options(argv) if not key), None)
    if config is not None and name is not None:
        rest = "leave --config out, or change a key with --config.KEY=VALUE"
        return f"--config={name}: this command reads the configuration of --workdir; {rest}"
    if config is None:
        path, _, arguments = (name or "").partition(":")
        keys = [key for key, _ in options(argv)]
        if name is None or keys[0]:
            late = f" before --config.{keys[0]}" if name else ""
            return f"--config is missing{late}; for example --config=configs/digits.py" if keys else ""
        if not pathlib.Path(path).is_file():
            close, known = nearest(pathlib.Path(path).stem, named.names()), ", ".join(named.names())
            return f"--config={path}: there is no such file{close}; give a path, or one of the names {known}"
        try:
            config = load(path, arguments)
        except InputError as error:
            return f"--config={name}: {error}"
        except Exception as error:  # the file may do anything
            return f"--config={path}: cannot be loaded ({type(error).__name__}: {error}); copy a file of configs/"
    lines = (wrong_key(config, key) or wrong_value(config, key, value) for key, value in options(argv) if key)
    return " ".join(next(filter(None, lines), "").split())


def options(argv: list[str]) -> Iterable[tuple[str, str | None]]:
    """Yields (dotted key, text) for each --config.KEY=TEXT, and ("", text) for --config=TEXT.

    If a word has no =, the text is the next word; it is None if that is an option, or if there is none.
    """
    for word, after in itertools.zip_longest(argv[1:], argv[2:], fillvalue="-"):
        option, equals, text = word.partition("=")
        name = option.lstrip("-")
        value = text if equals else None if re.match("--?[A-Za-z]|-$", after) else after
        if option.startswith("-") and (name == "config" or name.startswith(("config.", "noconfig."))):
            yield name.partition(".")[2], value


def load(path: str, arguments: str) -> ml_collections.ConfigDict:
    """Returns the configuration of a file, as ml_collections does."""
    return named.load(pathlib.Path(path)).get_config(*([arguments] if arguments else []))


def changed(config: ml_collections.ConfigDict, keys: dict[str, Any]) -> ml_collections.ConfigDict:
    """Returns a configuration with other values by dotted key; raises InputError for a wrong key or type.

    None is a value of the keys that the schema leaves open.
    """
    config = ml_collections.ConfigDict(config)
    check_known(config, keys)
    if section := next((key for key, value in keys.items() if isinstance(value, dict)), ""):
        raise InputError(f"{section}: is a section; give its keys one by one, with their dots")
    schema = defaults()
    for key, value in keys.items():
        wrong = InputError(f"{key}={value!r}: the value must be {described(config, key)}")
        if value is None and not wrong_key(schema, key) and lookup(schema, key) is not None:
            raise wrong
        try:
            config.update_from_flattened_dict({key: value})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise wrong from error
    return config


def described(config: ml_collections.ConfigDict, key: str) -> str:
    """Returns what values a key takes, with its present value: `a whole number, such as 256`."""
    *sections, name = key.split(".")
    for part in sections:
        config = config[part]
    kind, value = config.get_type(name), config[name]
    return TYPES.get(kind, (f"of type {kind.__name__}", None))[0] + ("" if value is None else f", such as {value!r}")


def check_known(config: ml_collections.ConfigDict, keys: Iterable[str]) -> None:
    """Raises InputError for the first key that does not exist."""
    if wrong := next(filter(None, (wrong_key(config, key) for key in keys)), ""):
        raise InputError(wrong.replace("--config.", "", 1))


def wrong_key(config: ml_collections.ConfigDict, key: str) -> str:
    """Returns a line if there is no such key; empty if there is."""
    section, parts = config, key.split(".")
    for i, part in enumerate(parts):
        if not isinstance(section, ml_collections.ConfigDict):
            return f"--config.{key}: {'.'.join(parts[:i])} is a value and has no keys"
        if part not in section:
            where = ".".join(parts[:i])
            keys = f"the keys of {where} are" if where else "the keys are"
            known = ", ".join(sorted(section.keys()))
            return f"--config.{key}: there is no such key{nearest(key, dotted_keys(config))}; {keys} {known}"
        section = section[part]
    return ""


def wrong_value(config: ml_collections.ConfigDict, key: str, text: str | None) -> str:
    """Returns a line if a text is no value for an existing key; empty if it is one."""
    *sections, name = key.split(".")
    section = config
    for part in sections:
        section = section[part]
    if isinstance(section[name], ml_collections.ConfigDict):
        keys = ", ".join(f"{key}.{inner}" for inner in sorted(section[name].keys()))
        return f"--config.{key}={text}: {key} is a section; set one of its keys: {keys}"
    kind, parse = TYPES.get(section.get_type(name), ("", str))
    if text is None:
        return "" if section.get_type(name) is bool else f"--config.{key}: the value is missing; write --config.{key}=X"
    try:
        parse(text)
    except (ValueError, TypeError):
        example = "" if section[name] is None else f", such as {section[name]}"
        return f"--config.{key}={text}: the value must be {kind}{example}"
    return ""


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns " (did you mean X?)" with the nearest of the known names; empty if none is near."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def dotted_keys(config: ml_collections.ConfigDict, prefix: str = "") -> list[str]:
    """Returns all keys of a configuration, dotted, with those of its sections."""
    keys = []
    for name in config:
        inner = config.get(name)
        is_section = isinstance(inner, ml_collections.ConfigDict)
        keys += dotted_keys(inner, f"{prefix}{name}.") if is_section else [f"{prefix}{name}"]
    return keys
