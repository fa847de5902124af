"""One case for every distiller: subclass it, say how to build the distiller, and get the tests."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from mmdistill_dense.distillers import Distiller
from mmdistill_dense.distillers.base import RunState
from tests import toys
from tests.distillers.maskd.tokens import random_tokens
from tests.fake_device import DEVICE, FakeDevice, on_cpu, on_device

STEPS = 6


class DistillerCase:
    """Properties that hold for any distiller, on a tiny FCN pair and on bare tensors.

    A subclass is a test class: it sets ``option`` (the distiller's config with its type) and, where the defaults do not
    fit, the shapes ``student`` and ``teacher`` of one tap (with a batch of 2).
    """

    option: dict[str, Any]
    student = (2, 64, 8, 8)
    teacher = (2, 128, 8, 8)
    zero_on_identical = False  # whether equal maps of equal width give a loss of 0
    permuted_is_worse = True
    samples: Any = None  # the ground truth of the 2 pictures, for methods that read it
    waits = 0  # how often a step waits for the device, besides the mm* packages
    pair = 'fcn'  # the networks of the last property

    def make(self, **changes: Any) -> Distiller:
        """The distiller, set up for the case's shapes."""
        from mmdistill_dense.registry import DISTILLERS

        option = {**self.option, **changes}
        torch.manual_seed(0)
        distiller = DISTILLERS.get(option.pop('type'))(**option)
        distiller.name = 'case'
        shapes = [
            {str(tap): [torch.Size((1, *shape[1:]))] for tap in taps}
            for taps, shape in ((distiller.student_taps, self.student), (distiller.teacher_taps, self.teacher))
        ]
        distiller.setup(*shapes)
        distiller.state = RunState(iteration=3, max_iters=10, seed=1, rank=0)
        return self.begun(distiller)

    def begun(self, distiller: Any) -> Any:
        """As after some steps: tokens are learned, and no weight is 0, which keeps gradients from what lies behind."""
        if hasattr(distiller, 'load_tokens'):
            distiller.load_tokens(random_tokens(distiller))
        for name, parameter in distiller.named_parameters():
            if not parameter.any() and not name.endswith('bias'):
                nn.init.normal_(parameter, mean=0.2 if parameter.ndim == 1 else 0.0, std=0.1)
        return distiller

    def maps(self, distiller: Distiller, dtype: torch.dtype = torch.float32) -> tuple[dict, dict]:
        """Recorded taps: random maps, the student's with gradient, the teacher's without."""
        generator = torch.Generator().manual_seed(5)

        def draw(taps: Any, shape: Any, needs: bool) -> dict[str, list[Tensor]]:
            return {str(tap): [torch.randn(shape, generator=generator).to(dtype).requires_grad_(needs)] for tap in taps}

        return draw(distiller.student_taps, self.student, True), draw(distiller.teacher_taps, self.teacher, False)

    def total(self, distiller: Distiller, student: dict, teacher: dict) -> Tensor:
        """The loss; what a step leaves in a queue is taken back, so that the next look starts from the same."""
        kept = {name: buffer for name, buffer in distiller.named_buffers() if 'running' not in name}
        before = {name: buffer.clone() for name, buffer in kept.items()}
        losses = distiller.step(student, teacher, self.samples)
        for name, value in before.items():
            kept[name].copy_(value)
        return torch.stack([value for name, value in losses.items() if 'loss' in name]).sum()

    # The properties

    def test_gradient_reaches_the_student_and_every_parameter_alone(self) -> None:
        """Also a scheduled zero gives each parameter one, which DDP waits for."""
        distiller = self.make()
        student, teacher = self.maps(distiller)
        for tensors in teacher.values():
            tensors[0].requires_grad_()
        losses = distiller.step(student, teacher, self.samples)
        assert losses and all(value.shape == () and value.isfinite() for value in losses.values())
        torch.stack([value for name, value in losses.items() if name.startswith('loss_')]).sum().backward()
        for (tensor,) in student.values():
            assert tensor.grad is not None and tensor.grad.isfinite().all() and tensor.grad.abs().sum() > 0
        assert all(tensor.grad is None for (tensor,) in teacher.values()), 'the loss detaches the teacher'
        for name, parameter in distiller.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        off = self.make(schedule=dict(stop_at=3))
        for value in off.step({}, {}, None).values():
            value.backward()
        assert all(parameter.grad is not None and not parameter.grad.any() for parameter in off.parameters())

    def test_same_iteration_same_losses(self) -> None:
        distiller = self.make()
        torch.manual_seed(1)
        first = self.total(distiller, *self.maps(distiller))
        state = torch.get_rng_state()
        torch.manual_seed(2)
        assert torch.equal(first, self.total(distiller, *self.maps(distiller))), 'random parts have their own generator'
        torch.set_rng_state(state)
        self.total(distiller, *self.maps(distiller))
        assert torch.equal(torch.get_rng_state(), state), 'and leave the global stream alone'

    def test_state_round_trip(self) -> None:
        first = self.make()
        torch.manual_seed(9)
        second = copy.deepcopy(first)
        with torch.no_grad():
            for parameter in second.parameters():
                parameter.normal_()
        second.load_state_dict(first.state_dict(), strict=True)
        second.state = first.state
        assert torch.equal(*(self.total(d, *self.maps(d)) for d in (first, second)))

    def test_a_step_on_a_device_gives_the_same_and_does_not_wait(self) -> None:
        distiller = self.make()
        distiller.step(*self.maps(distiller), self.samples)  # the first step may look whether all is there
        elsewhere, device = copy.deepcopy(distiller), FakeDevice()
        with device.running():
            elsewhere.to(DEVICE)
            maps, samples = on_device(self.maps(distiller)), on_device(self.samples)
            device.forget()
            found = elsewhere.step(*maps, samples)
            torch.stack(list(found.values())).sum().backward()
        assert device.ours() == self.waits, device.waits
        losses = distiller.step(*self.maps(distiller), self.samples)
        torch.testing.assert_close(on_cpu(found), on_cpu(losses))
        states = [{**dict(x.named_parameters()), **dict(x.named_buffers())} for x in (elsewhere, distiller)]
        torch.testing.assert_close(*map(on_cpu, states))

    def test_permuted_teacher_is_worse(self) -> None:
        """Where a student agrees with its teacher, a teacher whose pictures were exchanged gives a higher loss."""
        if not self.permuted_is_worse:
            return
        distiller = self.make()
        student, teacher = self.maps(distiller)
        self.fit(distiller, student, teacher)
        right = self.total(distiller, student, teacher)
        wrong = self.total(distiller, student, {tap: [tensor.flip(0)] for tap, (tensor,) in teacher.items()})
        assert wrong > right

    def fit(self, distiller: Distiller, student: dict, teacher: dict, steps: int = 30) -> None:
        """Train student maps and distiller to agree with the teacher."""
        parameters = [tensor for (tensor,) in student.values()] + list(distiller.parameters())
        optimizer = torch.optim.Adam(parameters, lr=0.01)
        for _ in range(steps):
            optimizer.zero_grad()
            self.total(distiller, student, teacher).backward()
            optimizer.step()

    def test_maps_that_are_no_numbers_show_in_the_losses(self) -> None:
        for side in (0, 1):
            distiller = self.make()
            maps = list(self.maps(distiller))
            maps[side] = {tap: [tensor * float('nan')] for tap, (tensor,) in maps[side].items()}
            assert not all(value.isfinite() for value in distiller.step(*maps, self.samples).values())

    def test_identical_maps(self) -> None:
        if not self.zero_on_identical:
            return
        distiller = self.make()
        student, teacher = self.maps(distiller)
        copies = zip(student, teacher.values(), strict=True)
        same = {tap: [tensor.clone().requires_grad_()] for tap, (tensor,) in copies}
        torch.testing.assert_close(self.total(distiller, same, teacher), torch.tensor(0.0), atol=1e-6, rtol=0)

    def test_step_in_a_real_network(self) -> None:
        """Loss keys, gradients and a falling loss on one repeated batch of a pair."""
        detects = self.pair in toys.DET
        net, teacher = (toys.det_net, toys.det_teacher) if detects else (toys.seg_net, toys.seg_teacher)
        option = {**self.option, **({'num_classes': None} if 'num_classes' in self.option else {})}
        nets = dict(student=net(self.pair), teacher=teacher(self.pair))
        model = toys.distilled('mmdet' if detects else 'mmseg', **nets, distillers=dict(case=option))
        self.begun(model.distillers['case'])
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        values = []
        for _ in range(STEPS):
            optimizer.zero_grad()
            found = toys.losses_of(model, toys.det_batch() if detects else None)
            losses = {name: value for name, value in found.items() if name.startswith('distill.case.')}
            assert 'distill.case.share' in losses
            toys.total(losses).backward()
            optimizer.step()
            values.append(toys.total(losses).item())
        assert values[-1] < values[0]
        assert all(p.grad is not None for p in model.distillers.parameters())
