"""Arguments of configuration files: the text after the colon in --config=FILE:name=value,flag."""

from typing import Any

import ml_collections

from sit_jax.common.errors import InputError
from sit_jax.config.wrong import TYPES, nearest


def parse_arg(arg: str | None, **spec: Any) -> ml_collections.ConfigDict:
    """Parses the text after the colon in `--config=FILE:name=value,flag`; `spec` gives names, defaults and types.

    A bare name is True. Raises InputError if a name is unknown or a value has the wrong type.
    """
    values = dict(spec)
    for item in filter(None, (arg or "").split(",")):
        name, _, text = item.partition("=")
        if name not in spec:
            raise InputError(f"config argument {name!r} is unknown{nearest(name, spec)}; known: {', '.join(spec)}")
        values[name] = _parse_value(name, text if "=" in item else "true", type(spec[name]))
    return ml_collections.ConfigDict(values)


def _parse_value(name: str, text: str, kind: type) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise InputError(f"config argument {name}={text} must be true or false")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"config argument {name}={text} must be {TYPES.get(kind, ('text', str))[0]}") from None
