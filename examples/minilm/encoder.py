"""A BERT-style sentence encoder of all-MiniLM-L6-v2's size and arithmetic, in plain PyTorch: the artifact's module.

Token ids and a mask in, one L2-normalised embedding per row out (the mean over the places where the mask is 1). Holds no
tokenizer. Runs as it is on the CPU, on CUDA, in half precision, and under a CUDA graph: no data-dependent control flow.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Layer(nn.Module):
    """Self-attention and a feed-forward block, each with a residual and a LayerNorm after it."""

    def __init__(self, hidden: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(hidden, 3 * hidden)  # one product instead of three
        self.out = nn.Linear(hidden, hidden)
        self.attention_norm = nn.LayerNorm(hidden, eps=1e-12)
        self.up = nn.Linear(hidden, inner)
        self.down = nn.Linear(inner, hidden)
        self.norm = nn.LayerNorm(hidden, eps=1e-12)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        rows, tokens, hidden = x.shape
        split = self.qkv(x).view(rows, tokens, 3, self.heads, hidden // self.heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(split[0], split[1], split[2], attn_mask=mask)
        x = self.attention_norm(x + self.out(mixed.transpose(1, 2).reshape(rows, tokens, hidden)))
        normed: Tensor = self.norm(x + self.down(functional.gelu(self.up(x))))
        return normed


class Encoder(nn.Module):
    """input_ids, attention_mask int64 [rows, tokens] -> embedding float32 [rows, hidden].

    A row with an empty mask, such as one of padding, gives zeros.
    """

    def __init__(
        self,
        *,
        layers: int = 6,
        hidden: int = 384,
        heads: int = 12,
        inner: int = 1536,
        vocabulary: int = 30522,
        positions: int = 512,
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, hidden)
        self.positions = nn.Embedding(positions, hidden)
        self.kinds = nn.Embedding(2, hidden)  # a sentence alone is of kind 0
        self.norm = nn.LayerNorm(hidden, eps=1e-12)
        self.layers = nn.ModuleList([Layer(hidden, heads, inner) for _ in range(layers)])

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        tokens = input_ids.shape[1]
        x = self.norm(self.words(input_ids) + self.positions.weight[:tokens] + self.kinds.weight[0])
        # Finite, not -inf: a row whose mask is empty must not become NaN.
        mask = (1 - attention_mask[:, None, None, :]).to(x.dtype) * torch.finfo(x.dtype).min
        for layer in self.layers:
            x = layer(x, mask)
        weights = attention_mask[:, :, None].float()
        mean = (x.float() * weights).sum(1) / weights.sum(1).clamp(min=1.0)
        return functional.normalize(mean, dim=1)
