"""FreeKD: masked distillation of the frequencies of a map."""

import warnings
from typing import Any, ClassVar

from torch import Tensor

from mmdistill_dense.distillers.base import Losses
from mmdistill_dense.distillers.maskd.learning import Gate
from mmdistill_dense.distillers.maskd.token_distiller import TokenDistiller, TokenModule
from mmdistill_dense.distillers.maskd.token_files import TOKEN, TokenTensors
from mmdistill_dense.losses import feature_mimic, frequency_gate, frequency_masks, frequency_terms
from mmdistill_dense.losses.wavelet import Bands
from mmdistill_dense.networks.taps import TapOption
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.validate import Count, NotNegative


def band_gate(values: TokenTensors, level: int, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the map whose bands are multiplied by the sum of their masks, and the masks."""
    masks = frequency_masks(values[f'{level}.{TOKEN}'], x)
    return frequency_gate(x, masks), masks


@DISTILLERS.register_module()
class FreeKD(TokenDistiller):
    """Absolute error between the wavelet details of maps, weighted by masks that were learned on the teacher's map.

    Haar steps take a map (N, C, H, W) to details ``D_j`` (N, C, 3, h_j, w_j), the finest first, and a low band.
    T tokens for each step, ``E_j`` (T, C), give masks of the teacher's, ``m_j = sigmoid(E_j . (LH + HL + HH))``::

        loss_freekd = sum_levels sum_j mean_n,t,c,k,p m_j |D_j(align(F_s)) - D_j(F_t)|
        loss_mse    = mse_weight * sum_levels mean_n,c,p (align(F_s) - F_t)^2

    The tokens, and those of the low band, are learned once on the teacher as MasKD's are, by masking each band.

    Source: Zhang et al., "FreeKD: Knowledge Distillation via Semantic Frequency Prompt", CVPR 2024,
    https://arxiv.org/abs/2311.12079, as released, which lacks the paper's weight of channels. Ours, with the same
    values: one transform of the difference, no masked copy per token. Options:
    [docs/methods/freekd.md](../methods/freekd.md).
    """

    gate: ClassVar[Gate] = staticmethod(band_gate)

    steps: Count = 3
    bands: Bands = 'high'
    mse_weight: NotNegative = 5.0

    def __init__(self, *taps: TapOption | None, **options: Any) -> None:
        super().__init__(*taps, **options)
        if self.num_tokens == 1:
            warnings.warn('num_tokens=1: Dice, which keeps the masks of a band apart, is 0 for one mask.', stacklevel=2)

    def token_module(self, channels: int) -> TokenModule:
        return TokenModule(self.steps + 1, self.num_tokens, channels)

    def loss(self, student: Tensor, teacher: Tensor, level: int) -> Losses:
        """Return the terms of one level; ``loss_freekd`` also as ``level<i>`` for the log."""
        value = frequency_terms(student, teacher, self.slot(level).mask_token, self.bands).sum()
        terms = {'loss_freekd': value, f'level{level}': value.detach()}
        if self.mse_weight:
            terms['loss_mse'] = self.mse_weight * feature_mimic(student, teacher, reduction='mean')
        return terms
