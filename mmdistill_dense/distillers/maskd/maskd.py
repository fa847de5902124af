"""MasKD: masked distillation with receptive tokens."""

from torch import Tensor

from mmdistill_dense import losses
from mmdistill_dense.distillers.base import Losses
from mmdistill_dense.distillers.maskd.token_distiller import TokenDistiller, TokenModule
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.validate import NotNegative, Positive, Whole


@DISTILLERS.register_module()
class MasKD(TokenDistiller):
    """Squared error between maps, weighted by masks that were learned on the teacher's map.

    T tokens ``E_i`` (vectors of C numbers) per level give masks ``m_i = sigmoid(E_i . F_t)`` of a teacher map ``F_t (N,
    C, H, W)``; a small branch of the map weighs them, ``p (N, T)``, or all weigh 1 / T::

        loss_maskd = factor * sum_levels mean_n sum_i p_i mean_c [ sum_P m_i^2 (align(F_s) - F_t)_c^2 / sum_P m_i ]

    Tokens and branch are buffers, learned once on the teacher before training starts: by its own training loss on its
    masked maps, plus a Dice term that keeps the masks apart.

    Source: Huang et al., "Masked Distillation with Receptive Tokens", ICLR 2023, https://arxiv.org/abs/2205.14589, and
    its released code. Ours, with the same values: one weight map instead of a masked copy per token. Options:
    [docs/methods/maskd.md](../methods/maskd.md).
    """

    weight_mask: bool = True
    student_mask_from: Whole | None = None
    factor: Positive = 1.0
    eps: NotNegative = 0.0

    def token_module(self, channels: int) -> TokenModule:
        return TokenModule(self.num_tokens, channels, weight_mask=self.weight_mask)

    def loss(self, student: Tensor, teacher: Tensor, level: int) -> Losses:
        """Return ``loss_maskd`` of one level, also as ``level<i>`` for the log."""
        slot, since = self.slot(level), self.student_mask_from
        is_masked = since is not None and self.state.iteration >= since
        value = losses.masked_feature_loss(
            student, teacher, slot.mask_token, slot.branch(), student_mask=is_masked, eps=self.eps, factor=self.factor
        )
        return {'loss_maskd': value, f'level{level}': value.detach()}
