"""The case that a distiller is tested with, here and in a project of your own, with tiny real networks and pictures.

A subclass of :class:`DistillerCase` is a test class of pytest; the properties are its tests.
"""

from collections.abc import Mapping
from copy import copy
from typing import Any
from unittest import SkipTest

import torch
from mmengine.config import ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from mmdistill_dense.datasets.shapes import CLASSES
from mmdistill_dense.distillers.base import Distiller, RunState
from mmdistill_dense.registry import DATASETS, DISTILLERS, MODELS, kind_of

SIDE = 64  # of the pictures
Maps = dict[str, list[Tensor]]


def pair(detects: bool = False, width: int = 8) -> dict[str, Any]:
    """Return options of a student with ResNet-18, ``width`` channels wide at the stem, and of a teacher twice as wide:
    an FCN, or a RetinaNet with FPN.
    """
    networks = []
    for wide in (width, 2 * width):
        head = dict(num_classes=len(CLASSES), norm_cfg=dict(type='BN'), dropout_ratio=0.0)
        fcn = dict(
            cfg='mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py',
            pretrained=None,
            data_preprocessor=dict(size=(SIDE, SIDE)),
            backbone=dict(base_channels=wide, stem_channels=wide, norm_cfg=dict(type='BN')),
            decode_head=dict(head, in_channels=8 * wide, channels=2 * wide),
            auxiliary_head=dict(head, in_channels=4 * wide, channels=wide),
        )
        retinanet = dict(
            cfg='mmdet::retinanet/retinanet_r18_fpn_1x_coco.py',
            backbone=dict(base_channels=wide, frozen_stages=-1, norm_eval=False, init_cfg=None),
            neck=dict(in_channels=[wide * 2**stage for stage in range(4)], out_channels=2 * wide),
            bbox_head=dict(num_classes=6, in_channels=2 * wide, feat_channels=2 * wide, stacked_convs=1),
        )
        networks.append(retinanet if detects else fcn)
    return dict(student=networks[0], teacher=dict(networks[1], allow_random=True))


def batch(detects: bool = False) -> dict[str, Any]:
    """Return 2 raw generated pictures of a loader, with boxes, or label maps whose upper rows are ignored."""
    task = 'Det' if detects else 'Seg'
    init_default_scope(f'mm{task.lower()}')
    pack = dict(type=f'Pack{task}Inputs', meta_keys=('img_id', 'ori_shape', 'img_shape')[not detects :])
    pipeline = [dict(type=f'mmdistill_dense.LoadShapes{"Det" if detects else ""}'), pack]
    option = dict(type=f'mmdistill_dense.Shapes{task}Dataset', num_images=2, painting=dict(size=(SIDE, SIDE)))
    pictures = DATASETS.build(dict(option, pipeline=pipeline))
    raw_batch = dict(pseudo_collate([pictures[0], pictures[1]]))
    for sample in () if detects else raw_batch['data_samples']:
        sample.gt_sem_seg.data[:, :12] = 255
    return raw_batch


class DistillerCase:
    """Properties that hold for any distiller, on bare maps and in a tiny pair of real networks.

    A subclass sets ``option``, the distiller's options with its ``type``, and what differs from the defaults below. A
    class with ``needs_labels`` gets the annotations of ``batch``.
    """

    option: dict[str, Any]
    detects = False  # the pair is a RetinaNet, and the pictures have boxes; else an FCN, and label maps
    student: tuple[int, ...] = (2, 64, 8, 8)  # shape of the student's map at a tap, of 2 pictures
    teacher: tuple[int, ...] = (2, 128, 8, 8)
    zero_on_identical = False  # whether equal maps of equal width give a loss of 0
    permuted_is_worse = True  # whether a teacher whose pictures were exchanged gives a higher loss
    doubled_is_equal = True  # whether the same pictures twice in a batch give the same loss
    samples: Any = None  # annotations of the 2 pictures; those of `batch` for a class with `needs_labels`
    steps = 6  # in the real networks, after which the loss is lower

    def pair(self) -> dict[str, Any]:
        """Return the options ``student`` and ``teacher`` of the real networks."""
        return pair(self.detects)

    def batch(self) -> dict[str, Any]:
        """Return 2 raw pictures with their annotations."""
        return batch(self.detects)

    def begun(self, distiller: Any) -> Any:
        """Return a distiller as after some steps: no weight is 0, which keeps gradients from what lies behind."""
        for name, parameter in distiller.named_parameters():
            if not parameter.any() and not name.endswith('bias'):
                nn.init.normal_(parameter, mean=0.2 if parameter.ndim == 1 else 0.0, std=0.1)
        return distiller

    def make(self, **changes: Any) -> Any:
        """Return the distiller, set up for the case's shapes."""
        option = {**self.option, **changes}
        torch.manual_seed(0)
        kind = kind_of(DISTILLERS, option)
        distiller: Distiller = kind(**{name: value for name, value in option.items() if name != 'type'})
        distiller.name = 'case'
        distiller.state = RunState(iteration=3, max_iters=10, seed=1, classes=len(CLASSES))
        shapes = [
            {str(tap): [torch.Size((1, *shape[1:]))] for tap in taps}
            for taps, shape in ((distiller.student_taps, self.student), (distiller.teacher_taps, self.teacher))
        ]
        distiller.setup(*shapes)
        return self.begun(distiller)

    def maps(self, distiller: Distiller) -> tuple[Maps, Maps]:
        """Return recorded taps: random maps, the student's with gradient, the teacher's without."""
        generator = torch.Generator().manual_seed(5)

        def draw(taps: Any, shape: Any, needs: bool) -> Maps:
            return {str(tap): [torch.randn(shape, generator=generator).requires_grad_(needs)] for tap in taps}

        return draw(distiller.student_taps, self.student, True), draw(distiller.teacher_taps, self.teacher, False)

    def truth(self, distiller: Distiller) -> Any:
        """Return the annotations that the distiller gets."""
        return self.batch()['data_samples'] if self.samples is None and distiller.needs_labels else self.samples

    def total(self, distiller: Distiller, student: Maps, teacher: Maps) -> Tensor:
        """Return the loss; what a step leaves in a queue is taken back, so that the next look starts from the same."""
        buffers = {name: buffer for name, buffer in distiller.named_buffers() if 'running' not in name}
        before = {name: buffer.clone() for name, buffer in buffers.items()}
        losses = distiller.step(student, teacher, self.truth(distiller))
        for name, value in before.items():
            buffers[name].copy_(value)
        return torch.stack([value for name, value in losses.items() if 'loss' in name]).sum()

    def fit(self, distiller: Distiller, student: Maps, teacher: Maps, steps: int = 30) -> None:
        """Train student maps and distiller to agree with the teacher."""
        parameters = [tensor for (tensor,) in student.values()] + list(distiller.parameters())
        optimizer = torch.optim.Adam(parameters, lr=0.01)
        for _ in range(steps):
            optimizer.zero_grad()
            self.total(distiller, student, teacher).backward()
            optimizer.step()

    # The properties

    def test_gradient_reaches_the_student_and_every_parameter_alone(self) -> None:
        """Also a scheduled zero gives each parameter one, which DDP waits for."""
        distiller = self.make()
        student, teacher = self.maps(distiller)
        for tensors in teacher.values():
            tensors[0].requires_grad_()
        names = {name for name, _ in distiller.named_parameters()}
        losses = distiller.step(student, teacher, self.truth(distiller))
        assert losses and all(value.shape == () and value.isfinite() for value in losses.values()), losses
        torch.stack([value for name, value in losses.items() if name.startswith('loss_')]).sum().backward()
        for (tensor,) in student.values():
            assert tensor.grad is not None and tensor.grad.isfinite().all() and tensor.grad.abs().sum() > 0
        assert all(tensor.grad is None for (tensor,) in teacher.values()), 'the loss detaches the teacher'
        for name, parameter in distiller.named_parameters():
            assert name in names, f'{name} is made in the first step: the optimizer would not hold it'
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        off = self.make(schedule=dict(stop_at=3))
        for value in off.step({}, {}, None).values():
            value.backward()
        assert all(parameter.grad is not None and not parameter.grad.any() for parameter in off.parameters())

    def test_same_iteration_same_losses(self) -> None:
        distiller = self.make()
        torch.manual_seed(1)
        loss = self.total(distiller, *self.maps(distiller))
        state = torch.get_rng_state()
        torch.manual_seed(2)
        assert torch.equal(loss, self.total(distiller, *self.maps(distiller))), 'random parts have their own generator'
        torch.set_rng_state(state)
        self.total(distiller, *self.maps(distiller))
        assert torch.equal(torch.get_rng_state(), state), 'and leave the global stream alone'

    def test_permuted_teacher_is_worse(self) -> None:
        """Where a student agrees with its teacher, a teacher whose pictures were exchanged gives a higher loss."""
        if not self.permuted_is_worse:
            raise SkipTest('permuted_is_worse is False')
        distiller = self.make()
        student, teacher = self.maps(distiller)
        self.fit(distiller, student, teacher)
        right = self.total(distiller, student, teacher)
        permuted = self.total(distiller, student, {tap: [tensor.flip(0)] for tap, (tensor,) in teacher.items()})
        assert permuted > right

    def test_identical_maps(self) -> None:
        if not self.zero_on_identical:
            raise SkipTest('zero_on_identical is False')
        self.student = self.teacher  # no alignment between them
        distiller = self.make()
        student, teacher = self.maps(distiller)
        copies = zip(student, teacher.values(), strict=True)
        same = {tap: [tensor.clone().requires_grad_()] for tap, (tensor,) in copies}
        torch.testing.assert_close(self.total(distiller, same, teacher), torch.tensor(0.0), atol=1e-6, rtol=0)

    def test_doubled_batch_gives_the_same_loss(self) -> None:
        """A loss is divided by the batch of its process: DDP averages over processes, whatever their number."""
        if not self.doubled_is_equal:
            raise SkipTest('doubled_is_equal is False')
        maps, truth = self.maps(self.make()), self.truth(self.make())
        loss = self.total(self.make(), *maps)
        doubled = [{tap: [torch.cat([tensor, tensor])] for tap, (tensor,) in side.items()} for side in maps]
        case = copy(self)
        case.samples = None if truth is None else [*truth, *truth]
        torch.testing.assert_close(case.total(self.make(), *doubled), loss, rtol=0.02, atol=1e-5)

    def test_half_precision_maps_give_a_float32_loss(self) -> None:
        """Under autocast a network's maps are in half precision; a loss of them is computed in float32."""
        maps = [
            {tap: [tensor.detach().bfloat16()] for tap, (tensor,) in side.items()} for side in self.maps(self.make())
        ]
        distiller = self.make()
        with torch.autocast('cpu', torch.bfloat16):
            losses = distiller.step(*maps, self.truth(distiller))
        wide = [{tap: [tensor.float()] for tap, (tensor,) in side.items()} for side in maps]
        for name, value in self.make().step(*wide, self.truth(distiller)).items():
            assert losses[name].dtype == torch.float32, f'{name} is computed in {losses[name].dtype}'
            torch.testing.assert_close(losses[name], value, rtol=0.05, atol=1e-3, msg=name)

    def test_step_in_a_real_network(self) -> None:
        """Loss keys, gradients and a falling loss on one repeated batch of a pair."""
        init_default_scope('mmdet' if self.detects else 'mmseg')
        torch.manual_seed(0)
        option = dict(type='mmdistill_dense.DistillModel', **self.pair(), distillers=dict(case=dict(self.option)))
        model = MODELS.build(ConfigDict(option))
        model.init_weights()
        model.distillation.enter_run(max_iters=10)
        self.begun(model.distillers['case'])
        model.train()
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        values = []
        for _ in range(self.steps):
            optimizer.zero_grad()
            losses: Mapping[str, Tensor] = model(**model.data_preprocessor(self.batch(), True), mode='loss')
            assert 'distill.case.share' in losses
            total = torch.stack([v for k, v in losses.items() if k.startswith('distill.case.') and 'loss' in k]).sum()
            total.backward()
            optimizer.step()
            values.append(total.item())
        assert values[-1] < values[0], values
        assert all(p.grad is not None for p in model.distillers.parameters())
