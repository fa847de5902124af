"""Every leaf of a method is what ``tools/new_config.py`` writes; typed ones are told by what they inherit."""

from pathlib import Path

import pytest
from mmengine.config import Config

from mmdistill_dense.recipes.compose import fragments, methods, parts_of, recipes
from mmdistill_dense.recipes.leaves import by_hand, described, owner, wanted

ROOT = Path(__file__).parents[2] / 'configs'
FILES = sorted(path for path in ROOT.glob('[!_]*/*.py') if path.parent.name not in ('control', 'teachers'))


def test_every_leaf_is_what_the_tool_writes() -> None:
    for path in FILES:
        leaf = described(path)
        assert leaf is None or leaf.text() == path.read_text(encoding='utf-8'), path


def test_a_leaf_of_every_method_on_every_recipe_that_it_fits() -> None:
    missing = [str(leaf.file.relative_to(ROOT)) for method in methods() for leaf in wanted(method)
               if not leaf.file.is_file()]  # fmt: skip
    assert not missing, 'write them: python tools/new_config.py --all'


def test_what_is_typed_changes_another_leaf_or_distils_nothing_beside_labels() -> None:
    typed = {path.relative_to(ROOT).with_suffix('').as_posix() for path in FILES if by_hand(path)}
    assert {
        'afdcd/deeplabv3_r101_to_r18_cityscapes_mimic',
        'pcd/toy_pretrain',
        'pcd/deeplabv3_r18b_voc_pcd-init',
    } <= typed
    assert not {name for name in typed if name.startswith('pcd/')} & {f'pcd/{path.stem}' for path in recipes()}
    assert all(parts_of(path) for path in recipes())


@pytest.mark.parametrize('method', methods())
def test_a_method_on_a_recipe_differs_from_it_in_its_distillers_alone(method: str) -> None:
    leaf = next(wanted(method))
    distilled, alone = Config.fromfile(leaf.file).to_dict(), Config.fromfile(leaf.recipe).to_dict()
    assert distilled['model'].pop('distillers') == distilled.pop('distillers')
    assert distilled.pop('work_dir') == f'work_dirs/{method}/{leaf.file.stem}'
    assert 'distillers' not in alone['model']
    assert alone.pop('work_dir') == f'work_dirs/control/{leaf.recipe.stem}'
    assert distilled == alone


def test_fragments_set_distillers_and_nothing_else() -> None:
    """Among them one under the method's name, so that the folder, the fragment and the log agree."""
    for path in fragments():
        cfg = Config.fromfile(path)
        assert set(cfg) == {'distillers'}, path
        assert path.stem.split('_')[0] in cfg.distillers, path


def test_the_published_schedule_of_a_method_takes_the_place_of_the_usual_one() -> None:
    leaves = {leaf.file.stem: leaf.recipe.stem for leaf in wanted('maskd')}
    pair = 'deeplabv3_r101_to_r18_cityscapes'
    assert leaves[pair] == f'{pair}_maskd'
    assert owner(ROOT / f'control/{pair}_maskd.py') == 'maskd'
    assert pair in {leaf.recipe.stem for leaf in wanted('afdcd')}
    assert f'{pair}_maskd' not in {leaf.recipe.stem for leaf in wanted('afdcd')}
    assert len(leaves) == len(list(wanted('maskd')))
