"""A version of a run, read and verified: every file that serving uses has the hash that its stage's manifest says.

A stage's fingerprint covers the outputs of the stages before it, so it also tells whether the folders belong together:
rankers that were trained on other codes than the run has now are refused, not served.

Axes: N items of the fit, D embedding dimensions, L levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lgsid import pipeline
from lgsid.align.stage import EMBEDDINGS, REFERENCE
from lgsid.arrays import FloatArray, IntArray
from lgsid.artifact import MANIFEST, RunFolder, read_json, recorded_fingerprint, sha256_file, sha256_json
from lgsid.config import RunConfig, load_run_config
from lgsid.errors import ArtifactError
from lgsid.rank.visits import only_visits
from lgsid.sid.base import Tokenizer
from lgsid.sid.catalogue import FOLDER as ASSIGNED
from lgsid.sid.catalogue import Assigned, Fit, map_embeddings, read_assigned, read_fit

DATA, ALIGN, SID, RANK, GENERATE = (
    stage.folder for stage in (pipeline.DATA, pipeline.ALIGN, pipeline.SID, pipeline.RANK, pipeline.GENERATE)
)
_COMMANDS = {stage.folder: command for command, stage in pipeline.COMMANDS.items()}
_STAGES = {stage.folder: stage for stage in pipeline.STAGES}
MODELS = {RANK: "ranker.safetensors", GENERATE: "generator.safetensors"}


@dataclass(frozen=True)
class Artefacts:
    """A verified version of a run.

    Attributes:
        run: its folder.
        version: name of the run and a hash of all that is served.
        config: of the run.
        fit: items, embeddings (memory-mapped) and SIDs of stages 1 to 3.
        assigned: what `lgsid assign` has added, changed and closed since.
        reference_ND: the encoder's own embeddings; None where nothing was aligned, so that ``fit.emb_ND`` is them.
        visits_N: visits of each item of the fit.
        tokenizer: the fitted one.
        rankers, generators: folders of the trained models by name, the default one first.
    """

    run: RunFolder
    version: str
    config: RunConfig
    fit: Fit
    assigned: Assigned
    reference_ND: FloatArray | None
    visits_N: IntArray
    tokenizer: Tokenizer
    rankers: Mapping[str, Path]
    generators: Mapping[str, Path]


def load_artefacts(root: Path) -> Artefacts:
    """Verify and read a run.

    Args:
        root: a run folder with finished stages 1 to 3; rankers and generators are optional.

    Raises:
        ArtifactError: the run is incomplete, a file is missing or corrupt, or the folders do not belong together; with
            the name of the file and the command that mends it.
        ConfigError: its configuration cannot be read.
    """
    from lgsid.sid.methods import load_tokenizer

    run = RunFolder(Path(root))
    if not run.path("config.yaml").is_file():
        raise ArtifactError(f"{run.root} is not a run folder: it has no config.yaml", "lgsid run CONFIG --out RUN")
    manifests = {stage: stage_manifest(run, stage) for stage in (DATA, ALIGN, SID)}
    manifests |= {stage: stage_manifest(run, stage) for stage in MODELS if run.path(stage, MANIFEST).is_file()}
    for stage, manifest in manifests.items():
        _check_files(run, stage, manifest)
        _check_made_from(run, stage, manifests)
    _check_assigned(run)
    config = load_run_config(run.path("config.yaml"), ())
    fit = read_fit(run)
    reference = run.path(ALIGN, REFERENCE) if REFERENCE in manifests[ALIGN]["outputs"] else None
    return Artefacts(
        run=run,
        version=_version(run, config, manifests),
        config=config,
        fit=fit,
        assigned=read_assigned(run),
        reference_ND=None if reference is None else _reference(reference, fit, run),
        visits_N=_visits(run, fit.items, config),
        tokenizer=load_tokenizer(run.path(SID, "tokenizer")),
        rankers=_models(run, RANK, manifests, config.rank.models),
        generators=_models(run, GENERATE, manifests, config.generate.models),
    )


def stage_manifest(run: RunFolder, stage: str) -> dict[str, Any]:
    """The manifest of a stage that serving needs.

    Raises:
        ArtifactError: the stage is not complete.
    """
    manifest = run.manifest(stage)
    if manifest is None:
        raise ArtifactError(f"the stage {stage} is not complete in {run.root}: no {MANIFEST}", _fix(run, stage))
    return manifest


def used(stage: str, outputs: Mapping[str, str]) -> list[str]:
    """Names of the outputs of a stage that serving reads."""
    wanted: Sequence[str] = {
        DATA: ("items.parquet", "events.parquet"),
        ALIGN: (EMBEDDINGS, REFERENCE),
        SID: ("sids.parquet", *(name for name in outputs if name.startswith("tokenizer/"))),
    }.get(stage, ())
    if stage in MODELS:
        wanted = [name for name in outputs if name.endswith((f"/{MODELS[stage]}", "/config.json"))]
    return [name for name in wanted if name in outputs]


def _check_files(run: RunFolder, stage: str, manifest: Mapping[str, Any]) -> None:
    outputs: dict[str, str] = manifest["outputs"]
    for required in {DATA: ("items.parquet",), ALIGN: (EMBEDDINGS,), SID: ("sids.parquet",)}.get(stage, ()):
        if required not in outputs:
            raise ArtifactError(f"the manifest of {run.path(stage)} names no {required}", _fix(run, stage))
    for name in used(stage, outputs):
        _check_hash(run.path(stage, name), outputs[name], _fix(run, stage))


def _check_hash(path: Path, expected: str, fix: str) -> None:
    if not path.is_file():
        raise ArtifactError(f"no file {path}, which its stage's manifest names", fix)
    found = sha256_file(path)
    if found != expected:
        raise ArtifactError(f"{path} is corrupt: its SHA-256 is {found[:12]}…, the manifest says {expected[:12]}…", fix)


def _check_made_from(run: RunFolder, stage: str, manifests: Mapping[str, Mapping[str, Any]]) -> None:
    """Whether a stage was made from what the stages before it hold now: its fingerprint is computed anew."""
    manifest = manifests[stage]
    try:
        expected = recorded_fingerprint(_STAGES[stage], manifests)
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{run.path(stage, MANIFEST)} is not a manifest: {error!r}", _fix(run, stage)) from error
    if expected != manifest["fingerprint"]:
        before = " and ".join(_STAGES[stage].needs) or "its tables"
        raise ArtifactError(
            f"{run.path(stage)} does not fit: it was not made from what {before} hold now", _fix(run, stage)
        )


def _assigned_outputs(run: RunFolder) -> dict[str, str]:
    path = run.path(ASSIGNED, MANIFEST)
    outputs: dict[str, str] = read_json(path).get("outputs", {}) if path.is_file() else {}
    return outputs


def _check_assigned(run: RunFolder) -> None:
    for name, expected in _assigned_outputs(run).items():
        _check_hash(run.path(ASSIGNED, name), expected, f"restore {run.path(ASSIGNED)} from a copy")


def _fix(run: RunFolder, stage: str) -> str:
    return f"lgsid {_COMMANDS[stage]} {run.root}"


def _version(run: RunFolder, config: RunConfig, manifests: Mapping[str, Mapping[str, Any]]) -> str:
    held: dict[str, Any] = {
        stage: {name: manifest["outputs"][name] for name in used(stage, manifest["outputs"])}
        for stage, manifest in manifests.items()
    }
    held[ASSIGNED] = _assigned_outputs(run)
    return f"{config.name}-{sha256_json(held)[:12]}"


def _reference(path: Path, fit: Fit, run: RunFolder) -> FloatArray:
    reference_ND = map_embeddings(path)
    if len(reference_ND) != len(fit.items):
        raise ArtifactError(f"{path} has {len(reference_ND)} rows for {len(fit.items)} items", _fix(run, ALIGN))
    return reference_ND


def _visits(run: RunFolder, items: pl.DataFrame, config: RunConfig) -> IntArray:
    """Visits of each item, by the kinds of events that count as visits; 0 for all where there are no events."""
    path = run.path(DATA, "events.parquet")
    if not path.is_file():
        return np.zeros(len(items), dtype=np.int64)
    events = only_visits(pl.scan_parquet(path), config.rank.samples.kinds)
    counts = events.group_by("item_id").agg(pl.len().cast(pl.Int64).alias("visits")).collect(engine="streaming")
    found = items.select("item_id").join(counts, on="item_id", how="left", maintain_order="left")
    visits_N: IntArray = found["visits"].fill_null(0).to_numpy()
    return visits_N


def _models(
    run: RunFolder, stage: str, manifests: Mapping[str, Mapping[str, Any]], order: Sequence[str]
) -> dict[str, Path]:
    """Folders of a stage's models, those of the configuration first and in its order."""
    if stage not in manifests:
        return {}
    names = [name.split("/")[0] for name in manifests[stage]["outputs"] if name.endswith(f"/{MODELS[stage]}")]
    names.sort(key=lambda name: (order.index(name) if name in order else len(order), name))
    return {name: run.path(stage, name) for name in names}
