"""A ResNet of the 50-layer kind in plain PyTorch: the module of a benchmark's artifact.

Takes uint8 images and normalises them where it runs, in the precision of its own weights. Runs under a CUDA graph: no
data-dependent control flow.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

EXPANSION = 4


class Block(nn.Module):
    """A bottleneck: 1x1, 3x3, 1x1, and the way around."""

    def __init__(self, wide: int, inner: int, stride: int) -> None:
        super().__init__()
        out = inner * EXPANSION
        self.body = nn.Sequential(
            nn.Conv2d(wide, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(inplace=True),
            nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(inplace=True),
            nn.Conv2d(inner, out, 1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip
        self.around = nn.Sequential()
        if stride != 1 or wide != out:
            self.around = nn.Sequential(nn.Conv2d(wide, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.around(x))


class ResNet(nn.Module):
    """images uint8 [rows, 3, side, side] -> logits [rows, classes]."""

    def __init__(self, *, layers: Sequence[int] = (3, 4, 6, 3), width: int = 64, classes: int = 1000) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1))
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )  # fmt: skip
        blocks: list[nn.Module] = []
        wide = width
        for stage, count in enumerate(layers):
            inner = width << stage
            for at in range(count):
                blocks.append(Block(wide, inner, 2 if stage and not at else 1))
                wide = inner * EXPANSION
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(wide, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = (images.to(self.mean.dtype) - self.mean) / self.deviation
        x = self.blocks(self.stem(x)).mean(dim=(2, 3))
        logits: Tensor = self.head(x)
        return logits
