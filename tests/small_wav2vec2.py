"""A folder with a wav2vec2 of random weights, small enough for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def save_small(folder: Path, **changes: Any) -> str:
    """Write the model and give the folder's name; changes: of its transformers configuration."""
    import torch
    import transformers

    torch.manual_seed(0)
    settings = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "conv_dim": [8] * 7,
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 2,
        "num_feat_extract_layers": 7,
    }
    config = transformers.Wav2Vec2Config(**settings | changes)
    transformers.Wav2Vec2Model(config).save_pretrained(folder)
    return str(folder)
