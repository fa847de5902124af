"""Which method options fit which recipe, and that the config put together from them is the recipe with distillers."""

from pathlib import Path

import pytest
from mmengine.config import Config

from mmdistill_dense.apps.recipes import compose
from mmdistill_dense.apps.recipes.compose import best, config_text, gives_maps, options_for, parts_of, recipes
from mmdistill_dense.config.resolve import bases_of

ROOT = Path(__file__).parents[2] / 'configs'
TEXTS = {
    'runtime': "default_scope = 'mmseg'\n",
    'pair': 'model = dict()\n',
    'datasets': 'train_dataloader = dict()\n',
    'schedules': 'optim_wrapper = dict()\n',
}


def write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / f'{name}.py'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(next((text for word, text in TEXTS.items() if word in name), ''))


def write_options(folder: Path, options: dict[str, str]) -> None:
    folder.mkdir(exist_ok=True)
    for name, line in options.items():
        (folder / f'{name}.py').write_text(f'# fits: {line}\n')


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of configs with one pair, one recipe and no options."""
    monkeypatch.setattr(compose, 'configs', lambda: tmp_path)
    parts = ['pairs/net_r101_to_r18_city', 'datasets/city', 'schedules/short', 'runtime_seg']
    write(tmp_path, *(f'_base_/{part}' for part in parts))
    folder = tmp_path / '_base_/recipes'
    folder.mkdir()
    files = [tmp_path / f'_base_/{part}.py' for part in parts]
    (folder / 'net_r101_to_r18_city.py').write_text(f'_base_ = {[str(file) for file in files]}\n')
    return tmp_path


def fitting(tree: Path, variant: str | None = None, **options: str) -> str | None:
    write_options(tree / '_base_/distillers', options)
    found = options_for('m', 'net_r101_to_r18_city', variant)
    return found.stem if found else None


def test_no_options_fit_by_words_of_another_pair_and_those_that_fit_alike_are_refused(tree: Path) -> None:
    others = ('det', 'teacher r50', 'pair r18 r101', 'teacher r18', 'student r101', 'teacher city', 'pair net and city')
    options = {f'm_{index}': line for index, line in enumerate(others)}
    assert fitting(tree, **options, _m='seg', n_city='seg') is None
    with pytest.raises(ValueError, match=r'm_one\.py and m_two\.py fit net_r101_to_r18_city equally well'):
        fitting(tree, m_one='data city', m_two='student r18')


@pytest.mark.parametrize('lines', [
    ('seg',), ('data city', 'seg'), ('seg, data city', 'data city'), ('student r18, data city', 'seg, data city'),
    ('teacher net r101, student r18 city', 'seg, teacher r101, student r18, data city'),
    ('pair net r101 to r18 city', 'seg, teacher net r101, student r18 city'),
])  # fmt: skip
def test_most_words_win_and_the_task_counts_least(tree: Path, lines: tuple[str, ...]) -> None:
    assert fitting(tree, **{f'm_{index}': line for index, line in enumerate(lines)}) == 'm_0'


def test_a_variant_is_taken_only_when_asked_for(tree: Path) -> None:
    options = {'m_one': 'data city, variant mimic', 'm_two': 'data city, variant mimic_twice'}
    assert fitting(tree, **options) is None
    assert fitting(tree, variant='mimic') == 'm_one'
    assert fitting(tree, variant='mimic_twice') == 'm_two'
    assert fitting(tree, variant='twice', m_three='seg') is None


@pytest.mark.parametrize(('text', 'told'), [
    ('', r'm_x\.py: no line says what these options fit'),
    ('# fits: seg, student', "unknown item 'student' in '# fits: seg, student'; known: seg, det, pretrain, 'pair …'"),
    ('# fits: sec', "unknown item 'sec' in '# fits: sec'; known: "),
])  # fmt: skip
def test_a_line_that_cannot_be_read_is_refused(tree: Path, text: str, told: str) -> None:
    write(tree / '_base_/distillers', 'm_x')
    (tree / '_base_/distillers/m_x.py').write_text(text)
    with pytest.raises(ValueError, match=told):
        options_for('m', 'net_r101_to_r18_city')


@pytest.mark.parametrize(('pair', 'fits', 'task'), [
    ('a_and_b_to_c', ['teacher a and b', 'pair and'], 'seg'),
    ('c_from_a-b', ['student c', 'teacher a-b', 'pretrain'], 'pretrain'),
    ('toy_seg', ['pair toy', 'teacher toy', 'student toy', 'seg'], 'seg'),
])  # fmt: skip
def test_sides_of_a_pair(tmp_path: Path, pair: str, fits: list[str], task: str) -> None:
    for line in [*fits, 'teacher c', 'student a-b', 'teacher a', 'det']:
        write_options(tmp_path, {'m': line})
        assert (best([tmp_path / 'm.py'], pair, task) is not None) is (line in fits), line


def test_teachers_that_predict_nothing_take_their_own_options_alone(tmp_path: Path) -> None:
    write_options(tmp_path, {'m': 'seg', 'm_maps': 'maps', 'm_one': 'maps, seg'})
    files = sorted(tmp_path.glob('*.py'))
    assert [best(files, 'a_to_b', task, maps=maps).stem for task in ('seg', 'det') for maps in (False, True)
            if (task, maps) != ('det', False)] == ['m', 'm_one', 'm_maps']  # fmt: skip
    assert best(files, 'a_to_b', 'det') is None
    named = tmp_path / 'mine.py'
    for text, expected in (("type='mmdistill_dense.FoundationTeacher'", True), ("type='Own'", False), ('dict(', False)):
        named.write_text(f'model = dict(teacher=dict({text}))' if '=' in text else text)
        assert gives_maps(named) is expected
    assert options_for('kd', 'dinov2-vits14_to_deeplabv3_r18_voc') is None


def test_unknown_names_and_a_file_without_a_schedule_are_refused(tree: Path) -> None:
    with pytest.raises(KeyError, match="method 'afdc': unknown. Close: afdcd"):
        options_for('afdc', 'toy_seg')
    with pytest.raises(KeyError, match=r"recipe 'toy_sag': unknown. Close: .*toy_seg"):
        parts_of('toy_sag')
    file = tree / '_base_/recipes/mine.py'
    file.write_text("_base_ = ['../pairs/net_r101_to_r18_city.py', '../datasets/city.py']\n")
    with pytest.raises(ValueError, match=r'it has no schedule, runtime\. A recipe needs'):
        parts_of(file)


@pytest.mark.parametrize('recipe', recipes(), ids=lambda path: path.stem)
def test_parts_are_the_files_that_the_recipe_names(recipe: Path) -> None:
    parts = parts_of(recipe.stem)
    shared = '_epochs' if parts.task == 'det' else '_iterations'  # by recipes that hold the zoo's schedule themselves
    schedule = shared if parts.schedule == recipe.stem else parts.schedule
    files = [f'datasets/{parts.dataset}', f'schedules/{schedule}', parts.runtime]
    assert bases_of(recipe)[-3:] == [(ROOT / f'_base_/{file}.py').resolve() for file in files]
    if compose.sources_of(recipe)['pair'] != recipe:
        assert bases_of(recipe)[:-3] == [ROOT / f'_base_/pairs/{parts.pair}.py']
    assert Config.fromfile(recipe).default_scope == {'seg': 'mmseg', 'det': 'mmdet'}[parts.task]
    assert recipe.stem == parts.pair or recipe.stem.startswith(f'{parts.pair}_')


@pytest.mark.parametrize('inside', [True, False])
def test_a_config_is_its_recipe_with_the_distillers(inside: bool, tmp_path: Path) -> None:
    """From a folder of one's own the bases are named by package."""
    fragment = options_for('afdcd', 'toy_seg')
    assert fragment
    text = config_text('afdcd', 'toy_seg', fragment, ROOT / 'afdcd' if inside else tmp_path)
    if inside:
        assert text == (ROOT / 'afdcd/toy_seg.py').read_text()
        file = ROOT / 'afdcd/toy_seg.py'
    else:
        assert '..' not in text
        file = tmp_path / 'toy_seg.py'
        file.write_text(text)
    leaf, recipe = Config.fromfile(file).to_dict(), Config.fromfile(ROOT / '_base_/recipes/toy_seg.py').to_dict()
    assert leaf['model'].pop('distillers') == leaf.pop('distillers') == Config.fromfile(fragment).distillers
    assert (leaf.pop('work_dir'), recipe.pop('work_dir')) == ('work_dirs/afdcd/toy_seg', 'work_dirs/control/toy_seg')
    assert leaf == recipe


def test_parts_are_told_by_what_the_files_set(tmp_path: Path) -> None:
    """Not by where they lie, or in which order."""
    write(tmp_path, 'any/where/my_pair')
    data = tmp_path / 'my_data.py'
    data.write_text(TEXTS['datasets'])
    recipe = tmp_path / 'my_recipe.py'
    shipped = [ROOT / f'_base_/{name}.py' for name in ('runtime_seg', 'schedules/toy_450')]
    files = [shipped[0], data, shipped[1], tmp_path / 'any/where/my_pair.py']
    recipe.write_text(f'_base_ = {[str(file) for file in files]}\n')
    assert parts_of(recipe) == ('my_pair', 'my_data', 'toy_450', 'runtime_seg', 'seg', False, False)


def test_a_recipe_that_holds_its_pair_is_chosen_by_its_words(tmp_path: Path) -> None:
    """Not by those of the pair that it changes; a file that inherits it has the same pair."""
    recipe = ROOT / '_base_/recipes/gfl_r101_to_r18_coco.py'
    assert bases_of(recipe)[0] == ROOT / '_base_/pairs/gfl_r101_to_r50_coco.py'
    mine = tmp_path / 'mine.py'
    mine.write_text(f'_base_ = {str(recipe)!r}\ntrain_cfg = dict(max_epochs=3)\n')
    for file in (recipe, mine):
        assert parts_of(file).pair == 'gfl_r101_to_r18_coco'
        assert options_for('ld', file) == ROOT / '_base_/distillers/ld_gfl_r18.py'


def test_a_whole_config_is_a_recipe(tmp_path: Path) -> None:
    """As the README's own config: of another package's files, with a teacher."""
    student = tmp_path / 'my_student.py'
    student.write_text("_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'\n")
    file = tmp_path / 'mine.py'
    file.write_text("_base_ = ['./my_student.py']\nmodel = dict(type='mmdistill_dense.DistillModel')\n")
    for recipe in (student, file):
        parts = parts_of(recipe)
        assert parts.task == 'det'
        assert options_for('pkd', recipe) == ROOT / '_base_/distillers/pkd_det.py'


def test_a_config_names_a_recipe_of_ones_own_folder_relative_to_it(tmp_path: Path) -> None:
    pair = tmp_path / 'pairs' / 'my_pair.py'
    write(tmp_path, 'pairs/my_pair')
    files = [ROOT / f'_base_/{name}.py' for name in ('datasets/shapes_seg', 'schedules/toy_450', 'runtime_seg')]
    recipe = tmp_path / 'my_recipe.py'
    recipe.write_text(f'_base_ = {[str(file) for file in (pair, *files)]}\n')
    assert parts_of(recipe) == ('my_pair', 'shapes_seg', 'toy_450', 'runtime_seg', 'seg', False, False)
    fragment = options_for('kd', recipe)
    assert fragment
    text = config_text('kd', recipe, fragment, tmp_path)
    assert "'./my_recipe.py'" in text
    (tmp_path / 'leaf.py').write_text(text)
    assert Config.fromfile(tmp_path / 'leaf.py').model.distillers == Config.fromfile(fragment).distillers
