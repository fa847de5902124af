"""What stands beside a suite's table, on results that were made up."""

import re
from pathlib import Path

import pytest

from mmdistill_dense.apps.suite import plan
from mmdistill_dense.apps.suite.rows import collect
from tests.suite import made_up
from tests.suite.test_table import lines_of
from tools.docs.beside import changes_of_the_recipe, published

CITYSCAPES = """
control: deeplabv3_r101_to_r18_cityscapes
out: {out}
methods:
  afdcd: {{}}
  strong: {{method: afdcd, options: {{afdcd.fd_weight: 9}}}}
seeds: [0]
slurm: {{processes: 8}}
"""


@pytest.fixture(autouse=True)
def _quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, 'hash_of', made_up.hash_of)


def test_published_results_stand_beside_the_method_as_it_is_shipped(tmp_path: Path) -> None:
    suite = made_up.definition(tmp_path, text=CITYSCAPES)
    made_up.finish(suite, 'afdcd', {0: 76.0})
    text = published(collect(suite))
    assert lines_of(text, 'afdcd')[0][-3:] == ['74.21', '77.03 [1]', '+2.82']
    assert lines_of(text, 'strong')[0][-3:] == lines_of(text, 'student alone')[0][-3:] == ['–', '–', '–']
    assert re.search(r'^- \[1\] .*Af-DCD.*; teacher 78.07$', text, re.MULTILINE)


@pytest.mark.parametrize(
    ('options', 'changed'),
    [
        ('test_dataloader.dataset.data_root: /x, test_evaluator.ann_file: x, train_dataloader.num_workers: 1', ()),
        ('train_cfg.max_iters: 200', ('train_cfg.max_iters',)),
        ('train_cfg: {max_iters: 200}', ('train_cfg.max_iters',)),
        ('test_dataloader: {dataset: {data_root: /x}}', ()),
        ('train_dataloader.dataset.ann_file: few.txt', ('train_dataloader.dataset.ann_file',)),
        ('train_dataloader: {num_workers: 1}', ()),
        ('auto_scale_lr.base_batch_size: 2', ('auto_scale_lr.base_batch_size',)),
    ],
)
def test_a_changed_recipe_has_no_published_results(options: str, changed: tuple, tmp_path: Path) -> None:
    more = f'options: {{{options}}}\n'
    suite = made_up.definition(tmp_path, more, text=CITYSCAPES)
    assert changes_of_the_recipe(suite) == changed
    text = published(collect(suite))
    assert ('published: gain' in text) == (not changed)
    assert ('Published results are not shown' in text) == bool(changed)


@pytest.mark.parametrize(
    ('slurm', 'options', 'processes', 'kept'),
    [
        ('slurm: {processes: 8}', '', None, True),
        ('slurm: {processes: 8}', '', 1, False),  # as `suite.py run` starts them
        ('', '', None, False),
        ('slurm: {processes: 4}', 'train_dataloader.batch_size: 4', None, True),
        ('slurm: {processes: 4}', 'train_dataloader: {batch_size: 4}', None, True),
        ('slurm: {processes: 4}', 'train_dataloader.batch_size: 2', None, False),
        ('', 'train_dataloader.batch_size: 16', 1, True),
        ('', 'train_dataloader.batch_size: 8, optim_wrapper.accumulative_counts: 2', 1, False),
    ],
)
def test_published_results_are_of_the_recipes_batch(
    slurm: str, options: str, processes: int | None, kept: bool, tmp_path: Path
) -> None:
    """The recipe is for 16 pictures a step."""
    more = f'{slurm}\noptions: {{{options}}}\n'
    suite = made_up.definition(tmp_path, more, CITYSCAPES.partition('slurm')[0])
    assert (changes_of_the_recipe(suite, processes) == ()) == kept
    made_up.finish(suite, 'afdcd', {0: 76.0}, processes=processes or suite.slurm['processes'])
    shown = published(collect(suite))
    assert ('published: gain' in shown) == kept
    assert ('instead of 16 pictures a step' in shown) == (not kept and 'accumulative' not in options)
