"""The Python in the guides compiles, and the method of the guide runs."""

import re

import pytest
import torch

from mmdistill_dense.registry import DISTILLERS
from tests.test_packaging import ROOT

GUIDES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').rglob('*.md'))]
BLOCKS = [
    pytest.param(block, id=f'{path.relative_to(ROOT)}-{number}')
    for path in GUIDES
    for number, block in enumerate(re.findall(r'```python\n(.*?)```', path.read_text(encoding='utf-8'), re.DOTALL))
]


@pytest.mark.parametrize('block', BLOCKS)
def test_python_compiles(block: str) -> None:
    compile(block.replace('…', '...'), 'block', 'exec')  # … stands for what the reader fills in


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
