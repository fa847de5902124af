"""A plain ``nn.Module`` as teacher, which gives maps only: ``map``, ``maps.<k>`` (B, D, h, w) and ``cls`` (B, D)."""

from typing import Any

import torch
from torch import Tensor, nn

from mmdistill_dense.registry import MODELS

TEACHER: dict[str, Any] = dict(type='mmdistill_dense.PatchNet', allow_random=True)


@MODELS.register_module(force=True)
class PatchNet(nn.Module):
    """Patches of 8 x 8 pixels, two blocks of a 1x1 convolution, without a head."""

    preprocessor = dict(mean=[0.0] * 3, std=[1.0] * 3)  # pixels as they are

    def __init__(self, dim: int = 24, patch: int = 8) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, stride=patch)
        self.blocks = nn.ModuleList(nn.Conv2d(dim, dim, 1) for _ in range(2))
        self.maps = nn.ModuleDict({str(index): nn.Identity() for index in range(2)})
        self.map, self.cls = nn.Identity(), nn.Identity()

    def init_weights(self) -> None:
        """Random weights whose maps differ between positions."""
        torch.manual_seed(3)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3 if parameter.ndim == 4 else 0.0)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the last map."""
        x = self.proj(inputs)
        for block, tap in zip(self.blocks, self.maps.values(), strict=True):
            x = tap(x + block(x.tanh()))
        self.cls(x.mean((2, 3)))
        return self.map(x)
