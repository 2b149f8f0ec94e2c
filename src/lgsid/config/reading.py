"""From YAML files and ``--set`` values to strict classes, with errors that name key, value and what was expected."""

from __future__ import annotations

import copy
import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from lgsid.config.run import RunConfig
from lgsid.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML that refuses a key written twice, where plain YAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise ConfigError(f"line {node.start_mark.line + 1}: key {twice[0]!r} stands twice", "remove one of them")
        return super().construct_mapping(node, deep)


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ConfigError: the file is missing, is not YAML, is not a mapping, or has a key twice.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except FileNotFoundError:
        raise ConfigError(f"no configuration file {path}", "ls configs/") from None
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        raise ConfigError(f"{path} is not a YAML file: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}, {error.message}", error.fix) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}, expected key: value pairs")
    return content


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply ``key.path=value`` strings; values are YAML, so ``true``, ``3`` and ``[5, 10]`` have their types."""
    result: dict[str, Any] = copy.deepcopy(raw)
    for override in overrides:
        path, separator, value = override.partition("=")
        if not separator or not path:
            raise ConfigError(f"--set got {override!r}, expected key.path=value", "--set sid.codes=128")
        *parents, leaf = path.split(".")
        node = result
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"--set {override}: {parent!r} is a value, not a section")
        try:
            node[leaf] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {override}: {value!r} is not a YAML value") from error
    return result


def parse(model: type[Model], raw: dict[str, Any], source: str) -> Model:
    """Validate a mapping against a strict class, with an error that names the key, the value and what was expected."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(model, problem) for problem in error.errors()]
        raise ConfigError(f"{source} does not fit:\n  " + "\n  ".join(lines)) from None


def _explain(model: type[BaseModel], problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        got = "" if problem["type"] in ("missing", "value_error") else f" (got {problem['input']!r})"
        return f"{key or 'configuration'}: {problem['msg']}{got}"
    near = difflib.get_close_matches(str(problem["loc"][-1]), _field_names(model), n=1)
    return f"{key}: no such key" + (f"; did you mean {near[0]!r}?" if near else "")


def _field_names(model: type[BaseModel]) -> list[str]:
    names: list[str] = []
    for name, field in model.model_fields.items():
        names.append(name)
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, BaseModel):
                names.extend(_field_names(part))
    return names


def load_run_config(path: Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run's configuration; ``None`` means the embedded default world.

    Raises:
        ConfigError: see `load_yaml`, `apply_overrides` and `parse`.
    """
    raw = apply_overrides({"data": {"world": {}}} if path is None else load_yaml(path), overrides)
    raw.setdefault("name", "demo" if path is None else path.stem)
    config = parse(RunConfig, raw, str(path or "the default configuration"))
    base = Path.cwd() if path is None else path.resolve().parent
    return _resolve_paths(config, base)


def _resolve_paths(config: RunConfig, base: Path) -> RunConfig:
    data = config.data
    given = {name: value for name in ("items", "events") if (value := getattr(data, name)) is not None}
    paths = {name: (base / _expand(str(value))).resolve() for name, value in given.items()}
    update: dict[str, Any] = {"data": data.model_copy(update=paths)}
    encoder = config.align.encoder
    folder = base / _expand(encoder.model)
    if os.sep in encoder.model and folder.exists():  # otherwise a hub name such as BAAI/bge-m3
        encoder = encoder.model_copy(update={"model": str(folder.resolve())})
        update["align"] = config.align.model_copy(update={"encoder": encoder})
    return config.model_copy(update=update)


def _expand(path: str) -> str:
    """``${NAME}`` and ``${NAME:-default}`` from the environment; a relative value is relative to the working folder."""

    def value(match: re.Match[str]) -> str:
        name, default = match.group("name"), match.group("default")
        if (found := os.environ.get(name)) is not None:
            return str(Path(found).absolute())
        if default is None:
            raise ConfigError(f"{path}: the environment has no variable {name}", f"export {name}=/the/folder")
        return default

    return re.sub(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}", value, path)
