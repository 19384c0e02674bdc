"""A byte-level GPT: pre-norm transformer decoder with learned positions (Radford et al., 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VOCABULARY = 256


@dataclass(frozen=True)
class Shape:
    """Layers, attention heads, width of the residual stream and of the hidden layer of each block."""

    layers: int
    heads: int
    width: int
    hidden: int


SHAPES: dict[str, Shape] = {
    "tiny": Shape(layers=4, heads=4, width=128, hidden=512),
    "mini": Shape(layers=6, heads=8, width=256, hidden=1024),
    "small": Shape(layers=6, heads=10, width=640, hidden=2560),
    # GPT-2's 12 x 12 x 768. Bytes as tokens save its 38M embedding weights, so the hidden layers are wider instead:
    # the number of parameters, and so the size of a checkpoint, equals that of GPT-2 "124M".
    "base": Shape(layers=12, heads=12, width=768, hidden=5184),
}


class Gpt(nn.Module):
    """Map bytes [N, T] with T up to `context` to logits of the next byte [N, T, 256]."""

    def __init__(self, shape: Shape, *, context: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, shape.width)
        self.position = nn.Parameter(torch.empty(context, shape.width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(shape, dropout=dropout) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width, bias=False)
        self.head = nn.Linear(shape.width, VOCABULARY, bias=False)
        self._initialise(shape)

    def forward(self, tokens: Tensor) -> Tensor:
        stream = self.dropout(self.embedding(tokens) + self.position[: tokens.shape[1]])
        for block in self.blocks:
            stream = block(stream)
        logits: Tensor = self.head(self.norm(stream))
        return logits

    def _initialise(self, shape: Shape) -> None:
        """Initialize weights as GPT-2 does: deviation 0.02, less where a block writes to the residual stream."""
        for name, parameter in self.named_parameters():
            if parameter.ndim >= 2:
                writes = name.endswith(("attention_out.weight", "mlp_out.weight"))
                nn.init.normal_(parameter, std=0.02 / ((2 * shape.layers) ** 0.5 if writes else 1.0))


class Block(nn.Module):
    """Causal self-attention and a GELU layer, each added to the residual stream."""

    def __init__(self, shape: Shape, *, dropout: float) -> None:
        super().__init__()
        self.heads = shape.heads
        self.attention_dropout = dropout
        self.attention_norm = nn.LayerNorm(shape.width, bias=False)
        self.attention_in = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.attention_out = nn.Linear(shape.width, shape.width, bias=False)
        self.mlp_norm = nn.LayerNorm(shape.width, bias=False)
        self.mlp_in = nn.Linear(shape.width, shape.hidden, bias=False)
        self.mlp_out = nn.Linear(shape.hidden, shape.width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, stream: Tensor) -> Tensor:
        stream = stream + self.dropout(self._attend(self.attention_norm(stream)))
        hidden = F.gelu(self.mlp_in(self.mlp_norm(stream)))
        mixed: Tensor = stream + self.dropout(self.mlp_out(hidden))
        return mixed

    def _attend(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        heads = self.attention_in(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = heads.unbind(0)
        dropout = self.attention_dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=dropout)
        out: Tensor = self.attention_out(mixed.transpose(1, 2).reshape(batch, length, width))
        return out
