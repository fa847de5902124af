"""The detection data on the real data of the workspace: sizes, classes, boxes and masks as their files say."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdistill_dense.config.values import num_classes
from mmdistill_dense.registry import DATASETS
from tests.every_config import CONFIGS, leaf, student, teacher

SHARED = Path(__file__).parents[3] / 'shared' / 'data'
# images of training, validation and test; classes
SIZES = {
    'bccd': ((205, 87, 72), 3),
    'nuclei_detection': ((267, 67, 67), 1),
    'nuclei': ((267, 67, 67), 1),
    'coco_mini': ((126, 100, 100), 80),
}


def fragment(name: str, monkeypatch: pytest.MonkeyPatch) -> Config:
    if not SHARED.is_dir():
        pytest.skip('the real images are not beside this checkout (../shared/data)')
    monkeypatch.setenv('MMDISTILL_DATA', str(SHARED))
    init_default_scope('mmdet')
    return Config.fromfile(CONFIGS / f'_base_/datasets/{name}.py')


@pytest.mark.parametrize('name', SIZES)
def test_real_images_load(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And masks where they are measured."""
    cfg = fragment(name, monkeypatch)
    sizes, classes = SIZES[name]
    loaders = (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader)
    sets = [DATASETS.build(loader.dataset) for loader in loaders]
    assert tuple(map(len, sets)) == sizes
    for data, evaluator in zip(sets[1:], (cfg.val_evaluator, cfg.test_evaluator), strict=True):
        assert evaluator.metric == (['bbox', 'segm'] if name == 'nuclei' else 'bbox')
        assert Path(evaluator.ann_file).samefile(data.ann_file)  # the metric reads the set's own labels
    for data in sets:
        assert len(data.metainfo['classes']) == classes
        item = data[0]['data_samples']
        truth = item.gt_instances
        assert len(truth.bboxes) == len(truth.labels) > 0
        assert truth.masks.areas.min() > 0 if name == 'nuclei' else 'masks' not in truth
        assert int(truth.labels.max()) < classes
        frame = item.img_shape if data is sets[0] else item.ori_shape  # a test truth stays at native size
        height, width = frame
        assert bool((truth.bboxes.tensor[:, 2:] <= truth.bboxes.tensor.new_tensor([width, height]) + 1).all())


@pytest.mark.parametrize('name', [
    'detection', 'instance', 'detection_masks', 'detection_ms', 'rtmdet', 'rtmdet_m', 'yolox', 'detr',
])  # fmt: skip
def test_coco_data_run_on_the_small_copy(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The layout is COCO's: the same files, the folder linked."""
    fragment('coco_mini', monkeypatch)
    (tmp_path / 'coco').symlink_to(SHARED / 'coco_mini')
    monkeypatch.setenv('MMDISTILL_DATA', str(tmp_path))
    cfg = Config.fromfile(CONFIGS / f'_base_/datasets/coco_{name}.py')
    data, tested = (DATASETS.build(loader.dataset) for loader in (cfg.train_dataloader, cfg.test_dataloader))
    sizes = {tuple(data[index]['inputs'].shape[1:]) for index in range(1 if name[0] in 'di' and name != 'detr' else 8)}
    if name == 'yolox':
        assert sizes == {(640, 640)} and max(tested[0]['inputs'].shape[1:]) == 640
        data.update_skip_type_keys(('Mosaic', 'RandomAffine', 'MixUp'))  # as the hook of the recipe does
        assert tuple(data[0]['inputs'].shape[1:]) == (640, 640)
    elif name.startswith('rtmdet'):
        assert sizes == {(640, 640)} == {tuple(tested[0]['inputs'].shape[1:])}
        (switch,) = cfg.custom_hooks
        steps = [step.type for step in switch.switch_pipeline]
        assert steps == [step.type for step in cfg.train_pipeline if not step.type.startswith('Cached')]
    elif name == 'detr':
        assert len({min(size) for size in sizes}) > 1
        assert all(min(size) <= 800 and max(size) <= 1333 for size in sizes)
    else:
        (size,) = sizes
        assert min(size) >= 640 or max(size) == 1333
        asked = next(step.get('with_mask', False) for step in cfg.train_pipeline if step.type == 'LoadAnnotations')
        assert ('masks' in data[0]['data_samples'].gt_instances) is asked is ('mask' in name or 'instance' in name)
        assert cfg.val_evaluator.metric == (['bbox', 'segm'] if name == 'instance' else 'bbox')


@pytest.mark.parametrize(('pair', 'trained'), [
    *((f'maskd/retinanet_mobilenetv2_to_r18w16_{name}', f'retinanet_mobilenetv2_{name}')
      for name in ('bccd', 'nuclei', 'coco_mini')),
    ('control/gfl_mobilenetv2_to_r18w16_bccd', 'gfl_mobilenetv2_bccd'),
])  # fmt: skip
def test_small_pairs_agree_with_their_data(pair: str, trained: str) -> None:
    """Teacher's config, teacher as the pair resolves it, and student predict the same classes at the same anchors."""
    cfg, own = leaf(pair), Config.fromfile(CONFIGS / f'teachers/{trained}.py')
    taught, taken = student(cfg), teacher(cfg)
    assert taken == own.model and cfg.model.teacher.checkpoint.endswith(
        f'{trained}/epoch_{own.train_cfg.max_epochs}.pth'
    )
    assert num_classes(taught) == num_classes(taken) == SIZES[trained.partition('netv2_')[2]][1]
    assert taught.bbox_head.anchor_generator == taken.bbox_head.anchor_generator
    assert 'gfl' not in pair or taught.bbox_head == taken.bbox_head, 'bins of the distributions: what LD compares'
    assert taught.data_preprocessor == taken.data_preprocessor
    for part in ('train_dataloader', 'test_dataloader', 'test_evaluator'):
        assert cfg[part] == own[part], part
