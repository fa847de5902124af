"""The case of every distiller, as the package gives it to others, with what only its own methods are asked."""

import copy
from typing import Any

import torch

from mmdistill_dense import testing
from tests import toys
from tests.distillers.maskd.tokens import random_tokens
from tests.fake_device import DEVICE, FakeDevice, on_cpu, on_device


class DistillerCase(testing.DistillerCase):
    """Teachers have weights of a file, tokens are learned, and a step on a device does not wait."""

    waits = 0  # how often a step waits for the device, besides the mm* packages
    net = 'fcn'  # the networks of the last property
    steps = 2

    def pair(self) -> dict[str, Any]:
        """The networks; a distiller is told no number of classes in them."""
        self.option = {**self.option, **({'num_classes': None} if 'num_classes' in self.option else {})}
        net, teacher = (toys.det_net, toys.det_teacher) if self.detects else (toys.seg_net, toys.seg_teacher)
        return dict(student=net(self.net), teacher=teacher(self.net))

    def fit(self, *args: Any, steps: int = 15) -> None:
        """Half as long as for strangers' methods."""
        super().fit(*args, steps=steps)

    def truth(self, distiller: Any) -> Any:
        """Annotations of pictures that know the size of their batch, which detectors ask."""
        self.samples = super().truth(distiller)
        for sample in self.samples or ():
            sample.set_metainfo(dict(batch_input_shape=(64, 64), pad_shape=(64, 64)))
        return self.samples

    def begun(self, distiller: Any) -> Any:
        """As after some steps, with tokens."""
        if hasattr(distiller, 'load_tokens'):
            distiller.load_tokens(random_tokens(distiller))
        return super().begun(distiller)

    def test_a_step_on_a_device_does_not_wait(self) -> None:
        distiller = self.make()
        samples = self.truth(distiller)
        distiller.step(*self.maps(distiller), samples)  # the first step may look whether all is there
        elsewhere, device = copy.deepcopy(distiller), FakeDevice()
        with device.running():
            elsewhere.to(DEVICE)
            maps, fake_samples = on_device(self.maps(distiller)), on_device(samples)
            device.forget()
            actual = elsewhere.step(*maps, fake_samples)
            torch.stack(list(actual.values())).sum().backward()
        assert device.ours() == self.waits, device.waits
        losses = distiller.step(*self.maps(distiller), samples)
        torch.testing.assert_close(on_cpu(actual), on_cpu(losses))
        states = [{**dict(x.named_parameters()), **dict(x.named_buffers())} for x in (elsewhere, distiller)]
        torch.testing.assert_close(*map(on_cpu, states))

    def test_state_round_trip(self) -> None:
        first = self.make()
        torch.manual_seed(9)
        second = copy.deepcopy(first)
        second.step(*self.maps(second), self.truth(second))  # what it has counted is forgotten
        with torch.no_grad():
            for parameter in second.parameters():
                parameter.normal_()
        second.load_state_dict(first.state_dict(), strict=True)
        second.state = first.state
        assert torch.equal(*(self.total(d, *self.maps(d)) for d in (first, second)))

    def test_maps_that_are_no_numbers_show_in_the_losses(self) -> None:
        for side in (0, 1):
            distiller = self.make()
            maps = list(self.maps(distiller))
            maps[side] = {tap: [tensor * float('nan')] for tap, (tensor,) in maps[side].items()}
            losses = distiller.step(*maps, self.truth(distiller))
            assert not all(value.isfinite() for value in losses.values())
