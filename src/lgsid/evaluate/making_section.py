"""How a report was made: command, configuration, versions; and, on request, the machine's time and memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from lgsid.artifact import sha256_json
from lgsid.config import RunConfig
from lgsid.evaluate.document import Block, Code, Details, Listing, Section, number, table, text
from lgsid.evaluate.results import Results


def making_section(config: RunConfig, results: Results) -> Section:
    """Everything needed to make the same report again."""
    settings = _settings(config)
    blocks: list[Block] = [
        Listing(f"lgsid run config.yaml --out runs/{config.name}"),
        text(
            "The run folder holds ", Code("config.yaml"), " with every option written out. Seed ",
            Code(str(config.seed)), ", configuration ", Code(sha256_json(settings)[:12]),
            ". The same data, configuration, versions and machine give the same report, byte for byte; wall time and "
            "peak memory of each stage stand in its ", Code("manifest.json"), ".",
        ),
        *_version_blocks(results.manifests),
        *(_time_blocks(results.manifests) if config.report.machine_time else []),
        Details("The whole configuration", (Listing(_yaml(settings)),)),
    ]  # fmt: skip
    return Section("making", "How this was made", tuple(blocks))


def _settings(config: RunConfig) -> dict[str, Any]:
    """The configuration with file names in place of paths: a moved file is the same file."""
    settings: dict[str, Any] = config.model_dump(mode="json", exclude_none=True)
    for key in ("items", "events"):
        if key in settings["data"]:
            settings["data"][key] = PurePath(settings["data"][key]).name
    return settings


def _yaml(settings: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)


def _version_blocks(manifests: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    versions: dict[str, list[str]] = {}
    for manifest in manifests.values():
        for name, version in manifest.get("versions", {}).items():
            if version not in versions.setdefault(name, []):
                versions[name].append(version)
    if not versions:
        return []
    rows = [[name, ", ".join(found)] for name, found in versions.items()]
    return [table("Versions", ["package", "version"], rows)]


def _time_blocks(manifests: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    rows = [
        [stage, f"{number(float(manifest['wall_seconds']))} s", f"{number(float(manifest['peak_memory_mib']))} MiB"]
        for stage, manifest in manifests.items()
        if "wall_seconds" in manifest and "peak_memory_mib" in manifest
    ]
    columns = ["stage", "wall time", "peak memory"]
    return [table("Machine", columns, rows, columns[1:])] if rows else []
