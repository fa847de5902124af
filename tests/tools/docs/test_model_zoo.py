"""What `make docs` writes is up to date, and mim finds what the metafiles name; published results."""

import shutil
import sys
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config

from mmdistill_dense.apps.recipes.compose import methods
from tests.every_config import every
from tools.docs.model_zoo import cards, configs_of, metafile, read_card, stale, stem_of
from tools.docs.targets import read_targets

ROOT = Path(__file__).parents[3]


@pytest.mark.soak
def test_generated_files_are_up_to_date() -> None:
    assert not [str(file.relative_to(ROOT)) for file in stale()], 'write them: make docs'


def test_a_card_names_a_paper_or_none(tmp_path: Path) -> None:
    for card in cards():
        assert set(card.rows['tasks'].split(', ')) <= {'segmentation', 'detection', 'pre-training'}, card.name
        assert card.sentence.endswith('.'), card.name
        assert card.paper is not None or card.rows['paper'].startswith('none'), card.name
    (tmp_path / 'odd.md').write_text('# Odd\n\nOne sentence.\n\n| | |\n|---|---|\n| tasks | detection |\n')
    with pytest.raises(ValueError, match='this one has the rows tasks'):
        read_card(tmp_path / 'odd.md')


def test_every_published_number_belongs_to_a_config() -> None:
    for method in methods():
        file = ROOT / f'configs/{method}/published.yml'
        targets = read_targets(file) if file.is_file() else []
        # a config of the method's own is no row of a suite: PCD's pre-training
        folders = ROOT / 'configs/_base_/recipes', file.parent
        assert all(any((folder / f'{target.recipe}.py').is_file() for folder in folders) for target in targets), method
        pairs = {path.stem for path in every() if path.parent.name == method}
        assert {stem_of(target, method) for target in targets} <= pairs, method
        stems = {path.stem for path in configs_of(method)}
        values = [target.value for target in targets if stem_of(target, method) in stems]
        models = yaml.safe_load(metafile(method))['Models'] if values else []
        results = [result for model in models for result in model.get('Results', ())]
        assert sorted(value for result in results for value in result['Metrics'].values()) == sorted(values), method


def test_mim_search_finds_every_file(monkeypatch: pytest.MonkeyPatch) -> None:
    from mim.commands import search

    monkeypatch.setattr(search, 'is_installed', lambda name: True)
    monkeypatch.setattr(search, 'get_installed_path', lambda name: str(ROOT))
    infos = search.get_model_info('mmdistill_dense', to_dict=True)
    assert set(infos) == {f'{method}_{path.stem}' for method in methods() for path in configs_of(method)}
    for name, one in infos.items():  # mim knows a model by its name alone, written small
        config = ROOT / one['config']
        assert config.is_file() and name == name.lower() == f'{config.parent.name}_{config.stem}'
    count = 0
    for content in (yaml.safe_load(file.read_text()) for file in ROOT.glob('configs/*/metafile.yml')):
        collections = {one['Name'] for one in content['Collections'] if (ROOT / one['README']).is_file()}
        assert {model['In Collection'] for model in content['Models']} <= collections
        count += len(content['Models'])
    assert count == len(infos)
    assert infos['afdcd_deeplabv3_r101_to_r18_cityscapes']['cityscapes/published_miou'] == 77.03
    models = {model['Name']: model for model in yaml.safe_load(metafile('maskd'))['Models']}
    coco = models['maskd_fcos_r101_to_r50_coco_inherit']
    facts = {'Training Data': 'COCO', 'Epochs': 24, 'Batch Size': 16, 'Pair': 'fcos_r101_to_r50_coco'}
    assert coco['Metadata'] == facts
    assert [result['Metrics'] for result in coco['Results']] == [{'published box AP': 42.9}]
    chosen = dict(models=['afdcd'], training_datasets=['pascal voc 2012 + aug'])
    voc = search.get_model_info('mmdistill_dense', to_dict=True, **chosen)
    assert 'afdcd_deeplabv3_r101_to_r18_voc' in voc
    assert all(name.startswith('afdcd_') and name.endswith('voc') for name in voc)


ENTRY = '{recipe: pair_a, metric: mIoU, student: 74.21, teacher: 78.07, method: 75.56, source: table, date: "2022-05"}'


def write(configs: Path, text: str) -> Path:
    path = configs / 'cwd' / 'published.yml'
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def test_entries_stand_in_the_order_of_the_file(tmp_path: Path) -> None:
    """Student and teacher need not be published; papers name the metrics of COCO otherwise."""
    variant = ENTRY.replace('method: 75.56', 'method: 70, variant: logits')
    bare = '{recipe: pair_b, metric: box AP, method: 75.56, source: x, date: 2022}'
    for metric in ('box AP', 'bbox_mAP', 'coco/bbox_mAP'):
        text = f'- {ENTRY}\n- {variant}\n- {bare.replace("box AP", metric)}\n'
        targets = read_targets(write(tmp_path / metric, text))
        assert [(row.recipe, row.metric, row.value, row.variant, row.student, row.teacher) for row in targets] == [
            ('pair_a', 'mIoU', 75.56, None, 74.21, 78.07),
            ('pair_a', 'mIoU', 70, 'logits', 74.21, 78.07),
            ('pair_b', 'coco/bbox_mAP', 75.56, None, None, None),
        ]
        assert (targets[0].source, targets[0].date) == ('table', '2022-05')


@pytest.mark.parametrize(('text', 'message'), [
    ('recipe: x', 'must be a list of published results'),
    ('- x', 'entry 1: must be a mapping'),
    ('- {recipe: x, metric: mIoU, method: 7}', 'entry 1: no date, source; known: '),
    (f'- {ENTRY.replace("2022-05", "today")}', 'entry 1, date: must be a year'),
    (f'- {ENTRY[:-1]}, schedule: 1x}}', 'entry 1: unknown schedule'),
    (f'- {ENTRY}\n- {ENTRY.replace("75.56", "seventy")}', 'entry 2, method: must be a score in percent'),
    (f'- {ENTRY.replace("mIoU", "AP")}', 'entry 1, metric: must be one of mIoU, box AP, '),
    (f'- {ENTRY.replace("74.21", "742.1")}', 'entry 1, student: must be a score in percent'),
])  # fmt: skip
def test_a_damaged_file_says_what_is_wrong(text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=message):
        read_targets(path)


def test_mim_download_brings_the_config(server, tmp_path, monkeypatch):
    from mim.commands import search
    from mim.commands.download import download

    package = tmp_path / 'tree'
    shutil.copytree(ROOT / 'configs', package / 'configs')
    shutil.copy(ROOT / 'model-index.yml', package)
    for module in (search, sys.modules[download.__module__]):
        monkeypatch.setattr(module, 'is_installed', lambda name: True)
        monkeypatch.setattr(module, 'get_installed_path', lambda name: str(package))
    monkeypatch.setattr(module, 'module_full_name', lambda name: name)

    monkeypatch.setenv('no_proxy', '127.0.0.1')
    folder, address = server
    (folder / 'student.pth').write_bytes(b'weights')
    file = package / 'configs/afdcd/metafile.yml'
    content = yaml.safe_load(file.read_text())
    (model,) = [model for model in content['Models'] if model['Name'] == 'afdcd_toy_seg']
    model['Weights'] = f'{address}/student.pth'
    file.write_text(yaml.safe_dump(content))
    assert download('mmdistill_dense', ['afdcd_toy_seg'], str(tmp_path / 'got')) == ['student.pth']
    assert (tmp_path / 'got/student.pth').read_bytes() == b'weights'
    got, leaf = map(Config.fromfile, (tmp_path / 'got/afdcd_toy_seg.py', ROOT / 'configs/afdcd/toy_seg.py'))
    assert got.model == leaf.model and got.train_cfg == leaf.train_cfg
