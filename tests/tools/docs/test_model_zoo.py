"""What `make docs` writes is up to date, and mim finds what the metafiles name; published results."""

from pathlib import Path

import pytest
import yaml

from mmdistill_dense.apps.recipes.compose import methods
from tools.docs.model_zoo import configs_of, stale

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.soak


def test_generated_files_are_up_to_date() -> None:
    assert not [str(file.relative_to(ROOT)) for file in stale()], 'write them: make docs'


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
