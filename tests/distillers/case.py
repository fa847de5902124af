"""The case of every distiller, as the package gives it to others, with what only its own methods are asked."""

from typing import Any

from mmdistill_dense import testing
from tests import toys
from tests.distillers.maskd.tokens import random_tokens


class DistillerCase(testing.DistillerCase):
    """Teachers have weights of a file, and tokens are learned."""

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

    def test_maps_that_are_no_numbers_show_in_the_losses(self) -> None:
        for side in (0, 1):
            distiller = self.make()
            maps = list(self.maps(distiller))
            maps[side] = {tap: [tensor * float('nan')] for tap, (tensor,) in maps[side].items()}
            losses = distiller.step(*maps, self.truth(distiller))
            assert not all(value.isfinite() for value in losses.values())
