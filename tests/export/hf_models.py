"""Tiny models of transformers with random weights, one for each family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn

torch.set_num_threads(1)  # the models are tiny: threads would only wait for each other
VOCABULARY = 97
WIDTH = 16
WINDOW = 12

CONFIGS: dict[str, Callable[..., object]] = {
    "falcon_mamba": lambda **more: hf.FalconMambaConfig(
        hidden_size=WIDTH, num_hidden_layers=1, state_size=4, **more
    ),
    "lfm2": lambda **more: hf.Lfm2Config(
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=24,
        block_ff_dim=24,
        layer_types=["conv"],
        **more,
    ),
    "mamba": lambda **more: hf.MambaConfig(
        hidden_size=WIDTH, num_hidden_layers=1, state_size=4, **more
    ),
    "mamba2": lambda **more: hf.Mamba2Config(
        hidden_size=WIDTH,
        num_hidden_layers=1,
        state_size=8,
        num_heads=4,
        head_dim=8,
        n_groups=2,
        chunk_size=32,
        **more,
    ),
    "qwen3_next": lambda **more: hf.Qwen3NextConfig(
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=24,
        layer_types=["linear_attention"],
        num_experts=0,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        **more,
    ),
    "recurrent_gemma": lambda **more: hf.RecurrentGemmaConfig(
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        lru_width=WIDTH,
        intermediate_size=48,
        attention_window_size=WINDOW,
        block_types=["recurrent", "attention"],
        **more,
    ),
    "rwkv": lambda **more: hf.RwkvConfig(
        hidden_size=WIDTH,
        num_hidden_layers=2,
        attention_hidden_size=WIDTH,
        rescale_every=1,
        **more,
    ),
    "xlstm": lambda **more: hf.xLSTMConfig(
        hidden_size=WIDTH,
        embedding_dim=WIDTH,
        num_hidden_layers=1,
        num_blocks=1,
        num_heads=2,
        **more,
    ),
}
FAMILIES = sorted(CONFIGS)


def tiny(family: str, vocabulary: int = VOCABULARY, **more: object) -> nn.Module:
    """Make a model; gates and biases that start at zero are shaken, so that they count."""
    torch.manual_seed(0)
    config = CONFIGS[family](vocab_size=vocabulary, **more)
    model: nn.Module = hf.AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "A_log" not in name and not weight.any():
                weight.add_(torch.randn_like(weight) * 0.2)
    return model


def trained_tokenizer(vocabulary: int) -> Tokenizer:
    """Train a small BPE of bytes on some text of several scripts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    lines = ["the rain in Spain", "déjà vu, naïve", "日本語の文", "def f(x): return x"] * 9
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


def saved(family: str, folder: Path, *, tokenizer: bool = False, **more: object) -> Path:
    """Save a model, and a tokenizer if asked for, as ``save_pretrained`` does."""
    model = tiny(family, 300 if tokenizer else VOCABULARY, **more)
    model.save_pretrained(str(folder))  # type: ignore[operator]
    if tokenizer:
        trained_tokenizer(300).save(str(folder / "tokenizer.json"))
    return folder
