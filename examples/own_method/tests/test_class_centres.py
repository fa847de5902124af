"""The method against a slow formula, and what every distiller is asked."""

import torch
from class_centres import ClassCentres

from mmdistill_dense.testing import DistillerCase, batch


class TestClassCentres(DistillerCase):
    """On bare maps, and in a tiny FCN with its teacher."""

    option = dict(type='ClassCentres')


def test_centres_of_each_class_and_picture() -> None:
    samples = batch()['data_samples']
    torch.manual_seed(0)
    student, teacher = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    distances = []
    for one, other, sample in zip(student, teacher, samples, strict=True):
        labels = sample.gt_sem_seg.data[0]
        assert (labels == 255).any(), 'the case has ignored pixels'
        for number in labels[labels != 255].unique():
            centres = [maps[:, labels == number].mean(1) for maps in (one, other)]
            distances.append(sum((a / a.norm() - b / b.norm()) ** 2 for a, b in [centres]).mean())
    method = ClassCentres()
    method.state.classes = 7
    found = method.level_loss(student, teacher, 0, samples)['loss_centres']
    torch.testing.assert_close(found, torch.stack(distances).mean())
