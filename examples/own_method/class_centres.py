"""A distiller of one's own that reads labels: the student learns where the teacher's classes lie."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmdistill_dense import DISTILLERS, FeatureDistiller, semantic_labels


@DISTILLERS.register_module()
class ClassCentres(FeatureDistiller):
    """Mean over classes of ``|m_s - m_t|^2 / C``, with a class's mean feature ``m`` in a picture, of unit length."""

    needs_labels = True  # so it gets no pictures without labels
    student_tap = 'backbone[3]'

    def level_loss(self, student: Tensor, teacher: Tensor, level: int, data_samples: Any) -> dict[str, Tensor]:
        """Compare one pair of maps (B, C, H, W), of one size and number of channels."""
        labels = semantic_labels(data_samples, student.shape[2:], self.key, self.state.ignored_labels)  # 255: ignored
        number = self.state.classes or 0  # of the student's head
        masks = F.one_hot(labels.clamp(max=number), number + 1)[..., :number].float()  # (B, H, W, K)
        ours, theirs = (self.centres(x.float(), masks) for x in (student, teacher))
        there = masks.amax((1, 2))  # (B, K)
        distances = (ours - theirs).square().mean(2)
        # no boolean index and no item(): the CPU does not wait for a GPU
        return {'loss_centres': (distances * there).sum() / there.sum().clamp(min=1), 'classes': there.sum(1).mean()}

    def centres(self, maps: Tensor, masks: Tensor) -> Tensor:
        """Return the mean feature of each class in each picture, (B, K, C)."""
        return F.normalize(torch.einsum('bchw,bhwk->bkc', maps, masks), dim=2)
