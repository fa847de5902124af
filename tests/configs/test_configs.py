"""Every shipped config: it has the values that are stored, parses, resolves, and has keys in one home.

A config of a method is its recipe and method options (:mod:`tests.recipes.test_recipes`), so recipes, teachers and
typed configs are loaded here, and of the others those that a test names.
"""

import re
from pathlib import Path

import pytest
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope, init_default_scope

from mmdistill_dense.config.resolve import ModelConfig, load_model
from mmdistill_dense.config.values import num_classes
from mmdistill_dense.registry import DATASETS
from mmdistill_dense.weights.strict_load import published_weights
from tests.configs import stored
from tests.every_config import CONFIGS, CONTROLS, FILES, leaf, name_of, named, place, read
from tests.public_data import coco
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


def teachers(cfg: Config) -> list[ConfigDict]:
    """The teachers of a config: the one, or all of the named ones."""
    option = cfg.model.get('teacher') if cfg.model.get('type') == 'mmdistill_dense.DistillModel' else None
    if not option:
        return []
    return [option] if 'cfg' in option or 'type' in option else list(option.values())


def network(option: ConfigDict, scope: str) -> ModelConfig:
    """Return a network as a run of this scope resolves it; not to be changed."""
    plain = {key: value for key, value in option.items() if key != 'checkpoint'}
    key = f'{scope} {plain}'
    if key not in _networks:
        with DefaultScope.overwrite_default_scope(scope):
            _networks[key] = load_model(plain, 'network')
    return _networks[key]


_networks: dict[str, ModelConfig] = {}


@pytest.mark.soak
def test_configs_resolve() -> None:
    typed = [path for path in [*FILES, *CONTROLS] if path not in named()]
    toys = [place(f'afdcd/{name}') for name in ('toy_seg', 'deeplabv3_r101_to_r18_cityscapes')]
    needed = {'model', 'train_dataloader', 'test_dataloader', 'optim_wrapper', 'default_scope', 'randomness'}
    for key, cfg in {name_of(path): read(path) for path in typed + toys}.items():
        assert not needed - set(cfg), key
        assert cfg.default_hooks.distill.type == 'mmdistill_dense.DistillHook', key
        assert key.startswith('teachers/') or cfg.work_dir == f'work_dirs/{key}', 'a folder of its own'
        student_config = network(cfg.model.student, cfg.default_scope) if teachers(cfg) else None
        for option in teachers(cfg):
            taught = network(option, cfg.default_scope)
            assert num_classes(student_config.model) is not None, key
            assert num_classes(taught.model) in (num_classes(student_config.model), None), key
            assert {student_config.scope, taught.scope} <= {None, cfg.default_scope}, key
            if option.checkpoint == 'auto':
                assert published_weights(option.cfg).startswith('http'), key
        if cfg.default_scope == 'mmseg':  # detection pads to the largest picture of a batch
            model = network(cfg.model.student, 'mmseg').model if 'student' in cfg.model else cfg.model
            crops = [step.crop_size for step in cfg.train_pipeline if step.type == 'RandomCrop']
            crop = crops[0] if crops else cfg.train_dataloader.dataset.painting.size
            assert tuple(model.data_preprocessor.size) == tuple(crop), key


def test_networks_have_the_papers_numbers_of_parameters() -> None:
    model = build(leaf('afdcd/deeplabv3_r101_to_r18_cityscapes'))
    whole, adapters = (sum(p.numel() for p in part.parameters()) for part in (model, model.distillers))
    assert whole - adapters == 13_986_374, 'specification, section 8: 13.99 M'
    assert adapters == (512 + 1) * 2048 + 2 * (9 * 2048 + 1) * 2048, 'section 9: 76.55 M'


@pytest.mark.sample(3)
@pytest.mark.parametrize('name', [
    'detection', 'instance', 'detection_masks', 'detection_ms', 'rtmdet', 'rtmdet_m', 'yolox', 'detr',
])  # fmt: skip
def test_pictures_of_coco_have_the_sizes_of_a_recipe(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    coco(tmp_path / 'coco', 8)
    monkeypatch.setenv('MMDISTILL_DATA', str(tmp_path))
    init_default_scope('mmdet')
    cfg = Config.fromfile(CONFIGS / f'_base_/datasets/coco_{name}.py')
    data, tested = (DATASETS.build(loader.dataset) for loader in (cfg.train_dataloader, cfg.test_dataloader))
    sizes = {tuple(data[index]['inputs'].shape[1:]) for index in range(8)}
    if name == 'yolox':
        assert sizes == {(640, 640)} and max(tested[0]['inputs'].shape[1:]) == 640
        data.update_skip_type_keys(('Mosaic', 'RandomAffine', 'MixUp'))  # as the hook of the recipe does
        assert tuple(data[0]['inputs'].shape[1:]) == (640, 640)
    elif name.startswith('rtmdet'):
        assert sizes == {(640, 640)} == {tuple(tested[0]['inputs'].shape[1:])}
        (switch,) = cfg.custom_hooks
        steps = [step.type for step in switch.switch_pipeline]
        assert steps == [step.type for step in cfg.train_pipeline if not step.type.startswith('Cached')]
    else:
        assert all(max(size) <= 1333 and min(size) <= 800 for size in sizes)
        assert name == 'detr' or all(min(size) >= 640 or max(size) == 1333 for size in sizes), 'DETR also crops'
        assert (len(sizes) > 1) == (name in ('detection_ms', 'detr')), 'one scale, or several'
        asked = next(step.get('with_mask', False) for step in cfg.train_pipeline if step.type == 'LoadAnnotations')
        assert ('masks' in data[0]['data_samples'].gt_instances) is asked is ('mask' in name or 'instance' in name)
        assert cfg.val_evaluator.metric == (['bbox', 'segm'] if name == 'instance' else 'bbox')
