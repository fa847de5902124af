"""SimReg: the vector of a picture turns into the teacher's."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmdistill_dense.distillers.base import Losses
from mmdistill_dense.distillers.vector_distiller import VectorDistiller
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.runner_internals import Samples


@DISTILLERS.register_module()
class SimReg(VectorDistiller):
    """Regress the teacher's vector of a picture, up to its length, with a deep head that only training needs.

    With unit vectors ``s_b`` of the student's pooled map behind the head and ``t_b`` of the teacher's pooled map::

        loss_simreg = mean_b (2 - 2 s_b . t_b)

    Source: Navaneet et al., "SimReg", BMVC 2021, https://arxiv.org/abs/2201.05131, as released: the teacher's backbone,
    without its projection head. Options: [docs/methods/simreg.md](../methods/simreg.md).
    """

    head: Mapping[str, Any] | None = {'type': 'mlp4', 'hidden': 1024, 'bias': True}

    def level_loss(self, student: Tensor, teacher: Tensor, level: int, data_samples: Samples) -> Losses:
        s, t = self.unit_vectors(student, teacher, level, data_samples)
        with torch.autocast(s.device.type, enabled=False):
            return {'loss_simreg': (s - t).square().sum() / max(len(s), 1)}
