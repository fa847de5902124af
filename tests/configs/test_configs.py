"""Every shipped config: it parses and has keys in one home; the Af-DCD ones hold the published constants.

A config of a method is its recipe and method options (:mod:`tests.configs.test_named`), so recipes, teachers and
typed configs are loaded here, and of the others those that a test names.
"""

from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope, init_default_scope

from mmdistill_dense.apps.recipes.compose import recipes
from mmdistill_dense.config.resolve import ModelConfig, bases_of, load_model
from mmdistill_dense.config.values import num_classes
from mmdistill_dense.distillers import AfDCD
from mmdistill_dense.registry import DATASETS, DISTILLERS
from mmdistill_dense.weights.strict_load import published_weights
from tests.every_config import CONFIGS, CONTROLS, FILES, leaf, name_of, named, place, read, student, teacher
from tests.zoo.networks import build

PARTS = sorted(
    path for path in (CONFIGS / '_base_').rglob('*.py') if path.parent.name not in ('_base_', 'recipes', 'changes')
)
HOMES = dict(
    pairs={'model'},
    models={'model'},
    distillers={'distillers'},
    auto={'distillers'},
    canonical={'distillers'},
    schedules={
        'optim_wrapper', 'param_scheduler', 'train_cfg', 'val_cfg', 'test_cfg', 'default_hooks', 'auto_scale_lr',
    },
    datasets={
        'train_pipeline', 'test_pipeline', 'tta_pipeline', 'val_evaluator', 'test_evaluator',
        'train_dataloader', 'val_dataloader', 'test_dataloader',
        'custom_hooks',  # pipelines that change in the course of a run
    },
)  # fmt: skip

# Constants of the paper's released scripts: kd, fd, contrast, pooling, crop, classes
PAPER = dict(
    cityscapes=(1.0, 2e-6, 0.005, 4, (512, 1024), 19),
    voc=(1.0, 1e-6, 0.005, 4, (512, 512), 21),
    camvid=(1.0, 8e-6, 0.01, 0, (360, 360), 11),
    ade20k=(0.5, 1e-6, 0.04, 4, (512, 512), 150),
)
# Rows of its result tables on these sets
ROWS = [
    'r18_cityscapes', 'mobilenetv2_cityscapes', 'r18_voc', 'pspnet_r18_voc', 'r18_camvid', 'pspnet_r18_camvid',
    'r18_ade20k',
]  # fmt: skip


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


@pytest.fixture(scope='module')
def loaded() -> dict[str, Config]:
    typed = [path for path in [*FILES, *CONTROLS] if path not in named()]
    toys = [place(f'afdcd/{name}') for name in ('toy_seg', 'deeplabv3_r101_to_r18_cityscapes', *SCALES)]
    return {name_of(path): read(path) for path in typed + toys}


@pytest.mark.soak
def test_every_key_has_one_home() -> None:
    elsewhere = {name_of(path): set(Config.fromfile(path)) - HOMES[path.parent.name] - of_zoo(path) for path in PARTS}
    assert not {name: keys for name, keys in elsewhere.items() if keys}


def of_zoo(path: Path) -> set[str]:
    """The keys of a whole config of the zoo whose model a network inherits. Nothing reads the other keys."""
    bases = bases_of(path) if path.parent.name == 'models' else []
    return set().union(*(of_zoo(one) if CONFIGS in one.parents else set(Config.fromfile(one)) for one in bases))


def test_configs_are_complete_and_resolve(loaded: dict[str, Config]) -> None:
    needed = {'model', 'train_dataloader', 'test_dataloader', 'optim_wrapper', 'default_scope', 'randomness'}
    for key, cfg in loaded.items():
        assert not needed - set(cfg), key
        assert cfg.default_hooks.distill.type == 'mmdistill_dense.DistillHook', key
        own = network(cfg.model.student, cfg.default_scope) if teachers(cfg) else None
        for option in teachers(cfg):
            taught = network(option, cfg.default_scope)
            assert num_classes(own.model) is not None, key
            assert num_classes(taught.model) in (num_classes(own.model), None), key
            assert {own.scope, taught.scope} <= {None, cfg.default_scope}, key
            if option.checkpoint == 'auto':
                assert published_weights(option.cfg).startswith('http'), key
        if cfg.default_scope == 'mmseg':  # detection pads to the largest picture of a batch
            model = network(cfg.model.student, 'mmseg').model if 'student' in cfg.model else cfg.model
            crops = [step.crop_size for step in cfg.train_pipeline if step.type == 'RandomCrop']
            crop = crops[0] if crops else cfg.train_dataloader.dataset.painting.size
            assert tuple(model.data_preprocessor.size) == tuple(crop), key


def test_outputs_of_the_shipped_pairs_mean_the_same() -> None:
    """In all pairs of dense heads, whose networks methods look at before they are built."""
    seen = 0
    for path, one in named().items():
        if path.parent.name not in ('kd', 'frs') or (cfg := one.config()).default_scope != 'mmdet':
            continue
        own, other = (network(cfg.model[side], 'mmdet') for side in ('student', 'teacher'))
        for key, option in cfg.model.distillers.items():
            DISTILLERS.build(dict(option)).check_networks(key, own, other)
            seen += 1
    assert seen > 30


# The paper


@pytest.mark.parametrize('row', ROWS)
def test_a_config_for_each_published_row(row: str) -> None:
    cfg = leaf(f'afdcd/deeplabv3_r101_to_{row}')
    kd, fd, contrast, pool, crop, classes = PAPER[row.rsplit('_', 1)[1]]
    distillers = cfg.model.distillers
    assert distillers.kd.loss_weight == kd
    options = {key: value for key, value in distillers.afdcd.items() if key != 'type'}
    method = AfDCD(**options)
    assert (method.fd_weight, method.fd_reduction, method.ctr_weight) == (fd, 'sum', contrast)
    assert method._contrast_of(0, 0) == dict(
        contrast='omni', negatives='other_groups', groups=16, temperature=0.07, pool_size=pool, patch_size=(4, 4)
    )
    assert (method.mask, method.projector) == (dict(type='random', ratio=0.75), 'plain')
    assert method.clip_max_norm == 15.0
    net = student(cfg)
    assert (net.decode_head.num_classes, tuple(net.data_preprocessor.size)) == (classes, crop)
    for head in filter(None, (net.decode_head, net.auxiliary_head)):
        assert head.align_corners and head.loss_decode.avg_non_ignore and head.num_classes == classes
    assert place(f'control/deeplabv3_r101_to_{row}').is_file()


def test_students_are_the_papers() -> None:
    students = {row: student(leaf(f'afdcd/deeplabv3_r101_to_{row}')) for row in ROWS}
    assert students['mobilenetv2_cityscapes'].auxiliary_head is None
    assert {net.decode_head.channels for net in students.values()} == {128}
    assert students['pspnet_r18_voc'].decode_head.type == 'PSPHead'
    assert students['r18_ade20k'].decode_head.type == 'ASPPHead'
    assert all(net.auxiliary_head.loss_decode.loss_weight == 0.4 for row, net in students.items() if 'r18' in row)
    model = build(leaf('afdcd/deeplabv3_r101_to_r18_cityscapes'))
    whole, adapters = (sum(p.numel() for p in part.parameters()) for part in (model, model.distillers))
    assert whole - adapters == 13_986_374, 'specification, section 8: 13.99 M'
    assert adapters == (512 + 1) * 2048 + 2 * (9 * 2048 + 1) * 2048, 'section 9: 76.55 M'


def test_typed_controls_are_the_same_run_without_distillers() -> None:
    """Recipes are the same run by how configs are made; a control that inherits belongs to a config of its name."""
    typed = [path for path in CONTROLS if path not in recipes()]
    assert typed
    for path in typed:
        (distilled,) = CONFIGS.glob(f'[!_]*/{path.name}')
        cfg, taught = Config.fromfile(path).to_dict(), Config.fromfile(distilled).to_dict()
        assert taught['model'].pop('distillers') == taught.pop('distillers'), path
        assert cfg.pop('work_dir') != taught.pop('work_dir'), path
        assert cfg == taught, path


def test_schedule_and_pipeline_are_the_papers() -> None:
    """A rate of 0.02 (1 - i / 40000)^0.9."""
    cfg = leaf('afdcd/deeplabv3_r101_to_r18_cityscapes')
    assert cfg.optim_wrapper.optimizer == dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4)
    assert cfg.train_cfg.max_iters == 40000
    (poly,) = cfg.param_scheduler
    assert poly == dict(type='PolyLR', power=0.9, eta_min=0.0, begin=0, end=40001, by_epoch=False)
    kinds = ['LoadImageFromFile', 'LoadAnnotations', 'RandomChoice', 'RandomCrop', 'RandomFlip', 'PackSegInputs']
    for data in ('cityscapes_512x1024', 'voc12_512x512', 'camvid_360x360', 'ade20k_512x512'):
        cfg = leaf(f'_base_/datasets/{data}')
        assert [step.type for step in cfg.train_pipeline] == kinds
        factors = [resize.scale_factor for (resize,) in cfg.train_pipeline[2].transforms]
        assert factors == [tenths / 10 for tenths in range(5, 21)]
        assert cfg.train_pipeline[3].cat_max_ratio == 1.0
        assert [step.type for step in cfg.test_pipeline] == [*kinds[:2], kinds[-1]]
        assert cfg.train_dataloader.dataset.pipeline == cfg.train_pipeline
        assert cfg.val_dataloader.dataset.pipeline == cfg.test_pipeline


# Data roots


def test_one_variable_moves_every_data_set(monkeypatch: pytest.MonkeyPatch, loaded: dict[str, Config]) -> None:
    """And no root stands where changing it does nothing."""
    assert not [key for key, cfg in loaded.items() if 'data_root' in cfg]
    assert loaded['afdcd/deeplabv3_r101_to_r18_cityscapes'].train_dataloader.dataset.data_root == 'data/cityscapes'
    monkeypatch.setenv('MMDISTILL_DATA', '/somewhere')
    for path in sorted((CONFIGS / '_base_/datasets').glob('[!_]*.py')):
        cfg = Config.fromfile(path)
        for loader in filter(None, map(cfg.get, ('train_dataloader', 'val_dataloader', 'test_dataloader'))):
            for dataset in loader.dataset.get('datasets', [loader.dataset]):
                assert dataset.get('data_root', '/somewhere/').startswith('/somewhere/')
        for evaluator in filter(None, map(cfg.get, ('val_evaluator', 'test_evaluator'))):
            assert evaluator.get('ann_file', '/somewhere/').startswith('/somewhere/')


# Test-time augmentation

SCALES = {
    'deeplabv3_r101_to_r18_camvid': (360, 480),
    'deeplabv3plus_mobilenetv2_to_r18w16_camvid': (180, 240),
}


@pytest.mark.parametrize('name', SCALES)
def test_augmented_scales_are_about_the_test_size(loaded: dict[str, Config], name: str, tmp_path: Path) -> None:
    for folder, suffix, shape in (('images', 'jpg', (360, 480, 3)), ('annotations', 'png', (360, 480))):
        (tmp_path / folder / 'test').mkdir(parents=True)
        cv2.imwrite(str(tmp_path / folder / 'test' / f'a.{suffix}'), np.zeros(shape, np.uint8))
    init_default_scope('mmseg')
    cfg = loaded[f'afdcd/{name}']
    item = DATASETS.build({**cfg.test_dataloader.dataset, 'data_root': str(tmp_path), 'pipeline': cfg.tta_pipeline})[0]
    sizes = [tuple(picture.shape[1:]) for picture in item['inputs']]
    assert sizes[::2] == sizes[1::2] == [tuple(int(side * f / 4) for side in SCALES[name]) for f in (2, 3, 4, 5, 6, 7)]
    assert {sample.gt_sem_seg.shape for sample in item['data_samples']} == {(360, 480)}


def test_both_list_styles_of_the_augmented_voc() -> None:
    joined = leaf('_base_/datasets/voc12aug_512x512').train_dataloader.dataset.datasets
    assert [Path(part.ann_file).name for part in joined] == ['train.txt', 'aug.txt']
    assert [part.data_prefix.seg_map_path for part in joined] == ['SegmentationClass', 'SegmentationClassAug']
    one = leaf('_base_/datasets/voc12aug_list_512x512').train_dataloader.dataset
    assert (Path(one.ann_file).name, one.data_prefix.seg_map_path) == ('train_aug.txt', 'SegmentationClassAug')
    assert one.data_prefix.img_path == 'JPEGImages'


def test_every_run_has_a_folder_of_its_own(loaded: dict[str, Config]) -> None:
    for key, cfg in loaded.items():
        if not key.startswith('teachers/'):
            assert cfg.work_dir == f'work_dirs/{key}', key
    folders = {key: cfg.get('work_dir', f'work_dirs/{Path(key).name}') for key, cfg in loaded.items()}
    assert len(folders) == len(set(folders.values()))
    taught = loaded['control/toy_seg'].model.teacher.checkpoint
    assert taught == f'{folders["teachers/toy_seg"]}/iter_{loaded["teachers/toy_seg"].train_cfg.max_iters}.pth'


def test_pairs_look_for_the_teacher_where_it_was_trained(loaded: dict[str, Config]) -> None:
    """The last checkpoint of the teacher's own config, for every pair that is not taught by published weights."""
    options = [(key, one) for key, cfg in loaded.items() for one in teachers(cfg)]
    for key, one in options:
        if one.checkpoint == 'auto' or '::teachers/' not in one.get('cfg', ''):
            continue
        trained = loaded[one.cfg.split('::')[1].removesuffix('.py')]
        length = trained.train_cfg
        last = f'epoch_{length.max_epochs}' if 'max_epochs' in length else f'iter_{length.max_iters}'
        assert one.checkpoint == f'work_dirs/{Path(one.cfg).stem}/{last}.pth', key


# The detection data on the real data of the workspace: sizes, classes, boxes and masks as their files say


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
