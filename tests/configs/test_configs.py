"""Every shipped config: it has the values that are stored, parses, resolves, and has keys in one home.

A config of a method is its recipe and method options (:mod:`tests.recipes.test_recipes`), so recipes, teachers and
typed configs are loaded here, and of the others those that a test names.
"""

import re

from tests.configs import stored
from tests.every_config import leaf
from tests.zoo.networks import build


def test_every_config_has_its_stored_values() -> None:
    """And no data set has a folder that ``MMDISTILL_DATA`` does not move."""
    assert not stored.differences(), 'Read tests/configs/stored.py'
    text = stored.FILE.read_text(encoding='utf-8')
    folders = re.findall('"data_root": "([^"]+)', text)
    folders += re.findall('^(?:val|test)_evaluator=.*"ann_file": "([^"]+)', text, re.MULTILINE)
    assert len(folders) > 50 and all(folder.startswith(stored.ROOT) for folder in folders)
    dataset = leaf('afdcd/deeplabv3_r101_to_r18_cityscapes').train_dataloader.dataset
    assert dataset.data_root == 'data/cityscapes', 'without the variable'


def test_networks_have_the_papers_numbers_of_parameters() -> None:
    model = build(leaf('afdcd/deeplabv3_r101_to_r18_cityscapes'))
    whole, adapters = (sum(p.numel() for p in part.parameters()) for part in (model, model.distillers))
    assert whole - adapters == 13_986_374, 'specification, section 8: 13.99 M'
    assert adapters == (512 + 1) * 2048 + 2 * (9 * 2048 + 1) * 2048, 'section 9: 76.55 M'
