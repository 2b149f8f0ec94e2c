"""The artefact of alignment: a folder that sentence-transformers opens as it is, and the small adapter beside it.

::

    FOLDER/
      config.json, model.safetensors     the transformer with the updates merged in, float32
      tokenizer.json, …                  its tokenizer
      modules.json                       transformer, pooling, dense layers, normalisation
      sentence_bert_config.json          length limit and lower-casing
      config_sentence_transformers.json  default prompt
      1_Pooling/, 2_Dense/, …            the encoder's own dense layers, then the head
      adapter/                           adapter_config.json and adapter_model.safetensors for peft; head.safetensors
      README.md                          model card

Equal weights give equal bytes: nothing in the folder names the time, the machine or a path.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lgsid.align.encoder import Encoder
from lgsid.align.models import quiet_transformers
from lgsid.align.policy import Policy
from lgsid.errors import ArtifactError

ADAPTER_FOLDER = "adapter"


def save_aligned(folder: Path, policy: Policy, card: str) -> None:
    """Write an aligned encoder; ``SentenceTransformer(folder)`` and `Encoder.load` then give the policy's vectors.

    The updates are merged into the base model's original weights in float32, whatever precision the policy runs in: so
    the base model is read once more. An older artefact in ``folder`` is replaced; the folder is whole or absent.

    Args:
        folder: where to.
        policy: the aligned encoder.
        card: text of the model card, in Markdown.

    Raises:
        ArtifactError: ``folder`` holds something else than an aligned encoder.
    """
    with _atomic_folder(folder) as work:
        _write_transformer(work, policy)
        _write_tokenizer(work, policy.encoder)
        _write_modules(work, policy)
        _write_adapter(work / ADAPTER_FOLDER, policy)
        (work / "README.md").write_text(_front_matter(policy.encoder) + card.strip() + "\n", encoding="utf-8")


@contextmanager
def _atomic_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside ``folder`` that takes its place, durably, when the block ends without an error."""
    known = not folder.exists() or (folder / ADAPTER_FOLDER).is_dir() or (folder.is_dir() and not any(folder.iterdir()))
    if not known:
        raise ArtifactError(
            f"{folder} holds something else than an aligned encoder", f"remove {folder}, or choose another"
        )
    work, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    for path in (work, old):
        shutil.rmtree(path, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        yield work
        _settle(work)
        if folder.exists():
            folder.rename(old)
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _settle(work: Path) -> None:
    """Make all files durable, and as readable as others (the safetensors library writes for the owner alone)."""
    mode = (work / "modules.json").stat().st_mode
    for path in (path for path in work.rglob("*") if path.is_file()):
        path.chmod(mode)
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def _write_transformer(work: Path, policy: Policy) -> None:
    """Weights and configuration, the updates merged: ``W + B A · alpha / rank`` in float32."""
    from transformers import AutoModel

    source = str(policy.encoder.layout.transformer)
    with quiet_transformers(), torch.random.fork_rng(devices=[]):  # weights that are absent are drawn at random
        model, info = AutoModel.from_pretrained(
            source, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
        with torch.no_grad():
            for name, delta in policy.updates():
                model.get_submodule(name).weight += delta
        kept = {name: tensor for name, tensor in model.state_dict().items() if name not in info["missing_keys"]}
        model.save_pretrained(work, state_dict=kept)


def _write_tokenizer(work: Path, encoder: Encoder) -> None:
    """The base model's tokenizer, read afresh (using one changes what it saves), able to pad a batch."""
    from transformers import AutoTokenizer

    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(str(encoder.layout.transformer))
        if tokenizer.pad_token_id is None:  # many decoders have none; whatever is masked may be padded with
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(encoder.filler)
        tokenizer.padding_side = "right"  # positions are not counted from the first real token by every model
        tokenizer.save_pretrained(work)


def _write_modules(work: Path, policy: Policy) -> None:
    """What sentence-transformers needs to turn hidden states into the vectors."""
    layout = policy.encoder.layout
    config: Any = policy.encoder.model.config
    modules = ["Transformer", "Pooling", *("Dense" for _ in layout.dense)]
    one = len(layout.poolings) == 1
    _write_json(work / "1_Pooling" / "config.json", {
        "embedding_dimension": config.hidden_size,
        "pooling_mode": layout.poolings[0] if one else list(layout.poolings),
        "include_prompt": True,
    })  # fmt: skip
    for place, source in enumerate(layout.dense, start=2):
        target = work / f"{place}_Dense"
        target.mkdir()
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(source / name, target / name)
    if policy.head is not None:
        _write_head(work / f"{len(modules)}_Dense", policy.head.weight)
        modules.append("Dense")
    modules.append("Normalize")
    _write_json(work / "modules.json", [
        {
            "idx": place,
            "name": str(place),
            "path": f"{place}_{kind}" if place else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for place, kind in enumerate(modules)
    ])  # fmt: skip
    _write_json(
        work / "sentence_bert_config.json",
        {"max_seq_length": policy.encoder.max_tokens, "do_lower_case": layout.lower_case},
    )
    prompts = {"default": layout.prefix} if layout.prefix else {}
    _write_json(work / "config_sentence_transformers.json", {
        "model_type": "SentenceTransformer",
        "prompts": prompts,
        "default_prompt_name": "default" if prompts else None,
        "similarity_fn_name": "cosine",
    })  # fmt: skip


def _write_head(folder: Path, weight_DD: Tensor) -> None:
    """The head as a dense layer; it stands before the only normalisation, which gives the same unit vectors."""
    _write_json(folder / "config.json", {
        "in_features": weight_DD.shape[1],
        "out_features": weight_DD.shape[0],
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    })  # fmt: skip
    _write_tensors(folder / "model.safetensors", {"linear.weight": weight_DD})


def _write_adapter(folder: Path, policy: Policy) -> None:
    """What `peft.PeftModel.from_pretrained` opens, and the head."""
    weights = {f"base_model.model.{name}.weight": weight for name, weight in policy.named().items() if name != "head"}
    _write_tensors(folder / "adapter_model.safetensors", weights)
    settings = policy.adapter.to_dict()
    settings |= {
        "base_model_name_or_path": _public_name(policy.encoder),
        "inference_mode": True,
        "target_modules": [name for name, _ in policy.updates()],
    }
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}
    _write_json(folder / "adapter_config.json", dict(sorted(plain.items())))
    if policy.head is not None:
        _write_tensors(folder / "head.safetensors", {"head_DD": policy.head.weight})


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, path, metadata={"format": "pt"})  # a single entry: the library writes several in random order


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _front_matter(encoder: Encoder) -> str:
    lines = [
        "---",
        "library_name: sentence-transformers",
        "pipeline_tag: sentence-similarity",
        f"base_model: {json.dumps(_public_name(encoder), ensure_ascii=False)}",
        "tags: [sentence-transformers, feature-extraction, geography, lgsid]",
        "---",
        "",
    ]
    return "\n".join(lines) + "\n"


def _public_name(encoder: Encoder) -> str:
    """The base model's name; of a folder or file only the last part, as the rest is about this machine."""
    return Path(encoder.name).name if Path(encoder.name).expanduser().exists() else encoder.name
