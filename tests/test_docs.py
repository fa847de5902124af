"""The code in the guides runs."""

import re

import torch

from mmdistill_dense.registry import DISTILLERS
from tests.test_packaging import ROOT


def test_the_method_of_the_guide_runs() -> None:
    text = (ROOT / 'docs' / 'own_method.md').read_text()
    code = re.search(r'```python\n# energy\.py\n(.*?)```', text, re.DOTALL)
    assert code is not None
    exec(code[1], {})
    energy = DISTILLERS.module_dict.pop('Energy')()
    taps = {'backbone[3]': [torch.rand(2, 4, 5, 5)]}
    shapes = {tap: [torch.Size((1, *tensor.shape[1:])) for tensor in tensors] for tap, tensors in taps.items()}
    energy.setup(shapes, shapes)
    assert energy(taps, taps, None)['loss_energy'] == 0
    assert energy(taps, {'backbone[3]': [torch.rand(2, 4, 5, 5)]}, None)['loss_energy'] > 0
