"""Classes by the name that a configuration gives them, imported when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from lgsid.errors import ConfigError


def find_class(known: Mapping[str, str], name: str, what: str, fix: str) -> Any:
    """The class of a name.

    Args:
        known: where each one lives, as "module:Class".
        name: the one that is wanted.
        what: they are, for the error.
        fix: a choice that is always right, for the error.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in known:
        raise ConfigError(f"no {what} {name!r}; known: {', '.join(known)}", fix)
    module, _, of_module = known[name].partition(":")
    return getattr(import_module(module), of_module)
