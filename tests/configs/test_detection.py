"""The detection data on the real data of the workspace: sizes, classes, boxes and masks as their files say."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.config.values import num_classes
from mmdistill_dense.registry import DATASETS
from tests.every_config import place, read

ROOT = Path(__file__).parents[2] / 'configs'
SHARED = Path(__file__).parents[3] / 'shared' / 'data'
# images of training, validation and test; classes
SIZES = {
    'bccd': ((205, 87, 72), 3),
    'nuclei_detection': ((267, 67, 67), 1),
    'nuclei': ((267, 67, 67), 1),
    'coco_mini': ((126, 100, 100), 80),
}
SMALL = ['bccd', 'nuclei', 'coco_mini']


def fragment(name: str, monkeypatch: pytest.MonkeyPatch) -> Config:
    if not SHARED.is_dir():
        pytest.skip('the real images are not beside this checkout (../shared/data)')
    monkeypatch.setenv('MMDISTILL_DATA', str(SHARED))
    init_default_scope('mmdet')
    return Config.fromfile(ROOT / f'_base_/datasets/{name}.py')


@pytest.mark.parametrize('name', SIZES)
def test_real_images_load(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = fragment(name, monkeypatch)
    sizes, classes = SIZES[name]
    loaders = (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader)
    sets = [DATASETS.build(loader.dataset) for loader in loaders]
    assert tuple(map(len, sets)) == sizes
    for data, evaluator in zip(sets[1:], (cfg.val_evaluator, cfg.test_evaluator), strict=True):
        assert Path(evaluator.ann_file).samefile(data.ann_file)  # the metric reads the set's own labels
    for data in sets:
        assert len(data.metainfo['classes']) == classes
        item = data[0]['data_samples']
        truth = item.gt_instances
        assert len(truth.bboxes) == len(truth.labels) > 0
        assert int(truth.labels.max()) < classes
        frame = item.img_shape if data is sets[0] else item.ori_shape  # a test truth stays at native size
        height, width = frame
        assert bool((truth.bboxes.tensor[:, 2:] <= truth.bboxes.tensor.new_tensor([width, height]) + 1).all())


def test_masks_are_loaded_where_they_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = fragment('nuclei', monkeypatch)
    assert cfg.val_evaluator.metric == ['bbox', 'segm']
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        truth = DATASETS.build(loader.dataset)[0]['data_samples'].gt_instances
        assert truth.masks.areas.min() > 0
    boxes = DATASETS.build(fragment('nuclei_detection', monkeypatch).train_dataloader.dataset)
    assert 'masks' not in boxes[0]['data_samples'].gt_instances


@pytest.mark.parametrize('name', ['coco_detection', 'coco_instance', 'coco_detection_masks', 'coco_detection_ms'])
def test_coco_data_run_on_the_small_copy(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The layout is COCO's: the same files, the folder linked."""
    fragment(name, monkeypatch)
    (tmp_path / 'coco').symlink_to(SHARED / 'coco_mini')
    monkeypatch.setenv('MMDISTILL_DATA', str(tmp_path))
    cfg = Config.fromfile(ROOT / f'_base_/datasets/{name}.py')
    masks = next(step.get('with_mask', False) for step in cfg.train_pipeline if step.type == 'LoadAnnotations')
    item = DATASETS.build(cfg.train_dataloader.dataset)[0]
    assert min(item['inputs'].shape[1:]) >= 640 or max(item['inputs'].shape[1:]) == 1333
    assert ('masks' in item['data_samples'].gt_instances) is masks is ('mask' in name or 'instance' in name)
    assert cfg.val_evaluator.metric == (['bbox', 'segm'] if name == 'coco_instance' else 'bbox')


@pytest.mark.parametrize('name', SMALL)
def test_small_pairs_agree_with_their_data(name: str) -> None:
    """Teacher's config, teacher as the pair resolves it, and student predict the same classes at the same anchors."""
    cfg = read(place(f'maskd/retinanet_mobilenetv2_to_r18w16_{name}'))
    trained = Config.fromfile(ROOT / f'teachers/retinanet_mobilenetv2_{name}.py')
    student = load_model(cfg.model.student, 'student').model
    teacher = load_model({k: v for k, v in cfg.model.teacher.items() if k != 'checkpoint'}, 'teacher').model
    assert teacher == trained.model
    assert num_classes(student) == num_classes(teacher) == SIZES[name][1]
    assert student.bbox_head.anchor_generator == teacher.bbox_head.anchor_generator
    assert student.data_preprocessor == teacher.data_preprocessor
    for part in ('train_dataloader', 'test_dataloader', 'test_evaluator'):
        assert cfg[part] == trained[part], part
