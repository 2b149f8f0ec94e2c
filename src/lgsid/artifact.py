"""Run folders: manifests, hashes, atomic writes, skip and resume.

A run is a folder with one sub-folder per stage. A stage writes its files atomically and its `manifest.json` last, so a
folder with a manifest is complete and one without is not. The manifest holds a fingerprint of everything the stage
depends on (its inputs' hashes, its part of the configuration, the seed, the package version) and the hash of every file
it wrote: a stage whose fingerprint and files still match is skipped, any other is run again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from lgsid.errors import ArtifactError

MANIFEST = "manifest.json"
_VERSIONED = ("lgsid", "torch", "numpy", "transformers", "polars", "pyarrow", "scikit-learn")


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place, durably, when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors makes files that nobody else may read
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, keys in the order given."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ArtifactError: it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"no file {path}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} is not JSON: {error}", f"rm {path} and run the stage again") from error


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a result."""
    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def peak_memory_mib() -> float:
    """Highest resident memory of this process so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux getrusage also counts what the parent held before exec
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024) if sys.platform == "darwin" else peak / 1024


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        folder: name inside the run folder, with its place in the order ("3_sid").
        needs: folders of the stages whose outputs it reads.
        section: names of the configuration sections it depends on ("rank", or "rank.samples" for a part of one).
        function: does the work; gets the run's configuration and folder, returns the stage's key figures.
        sources: files outside the run folder that it reads.
        companion: what the other processes of a `torchrun` do while the main one runs `function`; None if nothing.
    """

    folder: str
    needs: tuple[str, ...]
    section: tuple[str, ...]
    function: Callable[[Any, RunFolder], Mapping[str, Any]]
    sources: Callable[[Any], tuple[Path, ...]] = field(default=lambda config: ())
    companion: Callable[[Any, RunFolder], Any] | None = None


class RunFolder:
    """A run's folder on disk; paths between stages come from here and are never typed.

    Args:
        root: the folder; made when a stage first writes into it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, stage: str, name: str = "") -> Path:
        """Path of a stage's folder, or of a file in it."""
        return self.root / stage / name if name else self.root / stage

    def require(self, stage: str, name: str, command: str) -> Path:
        """Path of a file that an earlier stage must have written.

        Raises:
            ArtifactError: it is not there; names the command that makes it.
        """
        path = self.path(stage, name)
        if not path.exists():
            raise ArtifactError(f"no {path}: the stage {stage} has not run here", command)
        return path

    def manifest(self, stage: str) -> dict[str, Any] | None:
        """A stage's manifest, or None where the stage is not complete."""
        path = self.path(stage, MANIFEST)
        if not path.exists():
            return None
        content = read_json(path)
        if not isinstance(content, dict) or "fingerprint" not in content or "outputs" not in content:
            raise ArtifactError(f"{path} is not a manifest", f"rm {path} and run again")
        return content

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run folder for one process; the kernel frees it even after kill -9.

        Raises:
            ArtifactError: another process is running here.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ArtifactError(
                    f"another process is running in {self.root}", "wait for it, or use another --out"
                ) from None
            yield


def fingerprint(stage: Stage, config: Any, run: RunFolder) -> str:
    """Hash of everything a stage depends on; changes exactly when its result could."""
    upstream = {}
    for need in stage.needs:
        manifest = run.manifest(need)
        if manifest is None:
            raise ArtifactError(
                f"the stage {need} is not complete in {run.root}", "lgsid run, which runs the stages in order"
            )
        upstream[need] = manifest["outputs"]
    sources = [sha256_file(path) for path in stage.sources(config)]
    return _digest(stage.folder, metadata.version("lgsid"), config.seed, _sections(stage, config), upstream, sources)


def recorded_fingerprint(stage: Stage, manifests: Mapping[str, Mapping[str, Any]]) -> str:
    """The fingerprint that a finished stage has by its manifest, if it was made from what the manifests upstream say.

    Args:
        stage: which one.
        manifests: by folder; of the stage and of those that it needs.

    Raises:
        KeyError, TypeError, AttributeError: one of them is not a manifest.
    """
    manifest, upstream = manifests[stage.folder], {need: manifests[need]["outputs"] for need in stage.needs}
    version, sources = manifest["versions"]["lgsid"], list(manifest["inputs"].values())
    return _digest(stage.folder, version, manifest["seed"], manifest["config"], upstream, sources)


def _digest(
    folder: str, version: str, seed: int, sections: Mapping[str, Any], upstream: Mapping[str, Any], sources: list[str]
) -> str:
    held = {name: dict(part) if isinstance(part, dict) else part for name, part in sections.items()}
    for section in held.values():  # a moved file is the same file
        if isinstance(section, dict):
            section.update({key: None for key in ("items", "events") if isinstance(section.get(key), str)})
    return sha256_json([folder, version, seed, held, upstream, sources])


def _sections(stage: Stage, config: Any) -> dict[str, Any]:
    """What a stage depends on of the configuration, by the section's name."""
    whole = json.loads(config.model_dump_json())

    def at(name: str) -> Any:
        found = whole
        for key in name.split("."):
            found = found[key]
        return found

    return {name: at(name) for name in stage.section}


def is_current(stage: Stage, config: Any, run: RunFolder) -> bool:
    """Whether a stage's folder already holds what running it would write; corrupt or missing files make it stale."""
    manifest = run.manifest(stage.folder)
    if manifest is None or manifest["fingerprint"] != fingerprint(stage, config, run):
        return False
    outputs: dict[str, str] = manifest["outputs"]
    paths = {name: run.path(stage.folder, name) for name in outputs}
    return all(path.is_file() and sha256_file(path) == outputs[name] for name, path in paths.items())


def run_stage(stage: Stage, config: Any, run: RunFolder, force: bool = False) -> tuple[dict[str, Any], bool]:
    """Run a stage unless its result is already there.

    Returns:
        the stage's key figures, and whether it was run now (False: skipped).
    """
    if not force and is_current(stage, config, run):
        manifest = run.manifest(stage.folder)
        assert manifest is not None
        return dict(manifest["metrics"]), False
    folder = run.path(stage.folder)
    (folder / MANIFEST).unlink(missing_ok=True)
    print_digest = fingerprint(stage, config, run)
    _clear_unless_partial(folder, print_digest)
    started = time.perf_counter()
    metrics = dict(stage.function(config, run))
    shutil.rmtree(folder / ".partial", ignore_errors=True)
    write_json(folder / MANIFEST, {
        "stage": stage.folder,
        "fingerprint": print_digest,
        "seed": config.seed,
        "config": _sections(stage, config),
        "inputs": {str(path): sha256_file(path) for path in stage.sources(config)},
        "outputs": {str(path.relative_to(folder)): sha256_file(path) for path in _files(folder)},
        "metrics": metrics,
        "versions": versions(),
        "wall_seconds": round(time.perf_counter() - started, 3),
        "peak_memory_mib": round(peak_memory_mib(), 1),
    })  # fmt: skip
    return metrics, True


def _clear_unless_partial(folder: Path, digest: str) -> None:
    """Empty a stage's folder, but keep the partial work of an interrupted run with the same fingerprint."""
    mark = folder / ".partial" / "fingerprint"
    keep = mark.exists() and mark.read_text(encoding="utf-8") == digest
    if folder.exists():
        for path in folder.iterdir():
            if path.name == ".partial" and keep:
                continue
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_text(mark, digest)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
