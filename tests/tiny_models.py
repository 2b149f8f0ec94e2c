"""Tiny real models, written to disk the way `save_pretrained` writes them: no network, no mocks, milliseconds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WORDS = ("shop", "location", "pine", "cone", "restaurant", "bar", "food", "grill", "phoenix", "madison", "vegas", "az")
WORDS += ("wi", "nv", "main", "st", "road", "85018", "53532")


def write_tokenizer(folder: Path, *, pad: bool, special: bool, words: Sequence[str] = WORDS) -> None:
    """A word-level tokenizer; ``special`` adds [CLS] and [SEP] around every text, as BERT's does."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: place for place, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names: dict[str, Any] = {"unk_token": "[UNK]"}
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        names |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    if pad:
        names["pad_token"] = "[PAD]"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names).save_pretrained(folder)


def write_bert(folder: Path, seed: int = 0, hidden: int = 32, words: Sequence[str] = WORDS) -> Path:
    """A plain BERT of 32 dimensions; it knows ``words`` and takes every other for one unknown word."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(words) + 4,
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    write_tokenizer(folder, pad=True, special=True, words=words)
    return folder


def write_llama(folder: Path, seed: int = 0) -> Path:
    """A causal decoder whose tokenizer has no padding token and no special tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(WORDS) + 4,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    write_tokenizer(folder, pad=False, special=False)
    return folder


def write_sentence_files(folder: Path, pooling: dict[str, Any], **settings: Any) -> Path:
    """Turn a plain model folder into a sentence-transformers one."""
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    entries = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16, "do_lower_case": True}))
    if settings:
        (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    return folder
