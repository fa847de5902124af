"""The definitions that are shipped: each can be started by whoever has its data."""

import hashlib
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdistill_dense.apps.recipes.named import read_config
from mmdistill_dense.apps.suite import configs, plan
from mmdistill_dense.apps.suite.definition import Definition, fitting, load, read_file
from mmdistill_dense.registry import DATASETS, DISTILLERS
from mmdistill_dense.unlabelled.pictures import picture_paths
from tools.docs.targets import read_targets

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / 'benchmarks').glob('*.yaml'))
CAMVID = ROOT.parent / 'shared' / 'data' / 'camvid'


@pytest.fixture(scope='module', params=FILES, ids=lambda path: path.stem)
def suite(request: pytest.FixtureRequest) -> Definition:
    return load(request.param)


def test_the_usual_data_sets_are_there_and_no_two_suites_share_a_folder() -> None:
    usual = 'ade20k bccd camvid cityscapes coco cocostuff toy voc'
    assert {path.stem for path in FILES} >= {*usual.split()}
    outs = [read_file(path).get('out', path.stem) for path in FILES]
    assert len(set(outs)) == len(outs)


def test_every_method_becomes_a_config_of_its_own_that_differs_in_its_distillers(suite: Definition) -> None:
    control = configs.control_config(suite).to_dict()
    seen = [(None, str(control))]
    for method in suite.methods.values():
        config = configs.method_config(suite, method).to_dict()
        seen.append((method.length, str(config)))
        assert seen[-1] not in seen[:-1], 'two rows are one'
        config['model'].pop('distillers', None)
        config = configs._comparable(Config(config))
        if method.data:
            config['train_dataloader']['dataset'] = control['train_dataloader']['dataset']
        optimizer = {**control['optim_wrapper']['optimizer']}
        optimizer['lr'] *= method.rate
        wrapper = {**control['optim_wrapper'], 'optimizer': optimizer}
        whole = configs._comparable(Config({**control, 'optim_wrapper': wrapper}))
        assert not list(configs.differences(config, {**whole, 'model': config['model']}))


# the methods of definitions that leave some out, and rows beside them
CHOSEN = {
    'camvid_other_classes': ('kd pcd', ''),  # one for scores, one for features, as in camvid_1of8
    'bccd_51_detectors': ('pkd fgd frs defeat crosskd freekd cankd fitnet pcd', 'alone_2x'),
    'bccd_51_dino': ('kddetr pkd fgd', 'alone_2x inherited kddetr_inherited'),
    'nuclei_masks_neck': ('fgd', ''),
    'nuclei_masks': ('kd fgd pkd fitnet', 'alone_2x roi_masks roi_boxes'),
    'camvid_foundation_head': ('kd', 'alone_2x kd_2x kd_more'),
    'camvid_starts': ('', 'supervised pcd_pretrained pcd_vectors_pretrained seed_pretrained simreg_pretrained'),
    'cityscapes_ablations': ('kd afdcd maskd', ''),
    'coco_ablations': ('maskd', ''),
    'bccd_ablations': ('maskd', ''),
    **{f'{name}_unlabelled{end}': ('kd pcd', 'alone_2x pcd_more')
       for name in ('camvid', 'bccd') for end in ('', '_strict')},
}  # fmt: skip


def test_no_method_that_fits_is_left_out_of_a_comparison(suite: Definition) -> None:
    stem, rows = suite.path.stem, {method.method for method in suite.methods.values()} - {None}
    if stem in ('bccd_retinanet', 'camvid', 'camvid_1of8'):  # two cores have hours for some, on more seeds
        assert rows >= {'kd', 'afdcd', 'maskd', 'pcd'} and len(suite.seeds) >= 5
    elif stem.startswith('heldout_'):  # one method, named before the first run
        assert suite.methods.keys() == {'auto'} and rows == {'pcd'} and suite.methods['auto'].settings == 'auto'
        assert suite.seeds == (21, 22, 23, 24, 25)
    elif stem != 'toy':  # which shows how a definition is written
        methods, others = CHOSEN.get(stem, (' '.join(fitting(suite.control)), ''))
        assert rows == {*methods.split()} and {*others.split()} <= suite.methods.keys()
    if stem == 'camvid_other_classes':
        assert suite.options['model.teacher.classes'] == 'auto'


def test_what_others_start_from_resolves_and_has_the_batch_of_the_recipe(suite: Definition) -> None:
    """The teacher and the control; of the others the test above reads the configs."""
    runs = plan.runs(suite)
    firsts = {run.name: run for run in runs if run.is_teacher or run.name == plan.CONTROL}
    resolved = plan.resolved(suite, firsts.values())
    assert {len(config_hash) for _, config_hash in resolved.values()} == {configs.DIGITS}
    processes = suite.slurm.get('processes', 1)
    if processes > 1:
        config = Config.fromfile(suite.control)
        assert config.train_dataloader.batch_size * processes == config.auto_scale_lr.base_batch_size
        assert str(suite.slurm['gres']) == f'gpu:{processes}' and isinstance(suite.slurm['time'], str)
    else:
        plan.check_batch(suite, resolved, 1)


@pytest.mark.parametrize(('name', 'methods'), [
    ('cityscapes', ['skd', 'ifvd', 'cwd_both', 'cirkd', 'afdcd']),
    ('coco', ['pkd', 'dist', 'cwd']),
    ('coco_gfl', ['ld', 'cwd']),
])  # fmt: skip
def test_published_results_are_found_for_the_papers_pairs(name: str, methods: list[str]) -> None:
    suite = load(ROOT / 'benchmarks' / f'{name}.yaml')
    for row in methods:
        method = suite.methods[row]
        published = read_targets(ROOT / f'configs/{method.method}/published.yml')
        wanted = (suite.control.stem, suite.metric, method.variant)
        assert any((one.recipe, one.metric, one.variant) == wanted for one in published), row


@pytest.mark.parametrize(('recipe', 'control', 'score'), [
    ('retinanet_x101_1x_to_r50_coco', 'retinanet_x101_1x_to_r50_coco', 40.1),
    ('faster_rcnn_cascade_mask_x101_to_r50_coco', 'faster_rcnn_cascade_mask_x101_to_r50_coco_dist', 41.8),
])  # fmt: skip
def test_dist_with_mimicking_is_a_variant_of_the_published_pairs(recipe: str, control: str, score: float) -> None:
    """As released: DIST as in the plain form, and squares on the levels of the neck, with weight 1."""
    plain, found = (read_config(f'dist:{recipe}{variant}').model.distillers for variant in ('', ':mimic'))
    assert found == plain | {'mimic': dict(type='FitNet', student_tap='neck', loss_weight=1.0)}
    assert DISTILLERS.build(found['mimic'].to_dict()).align == 'conv'
    published = read_targets(ROOT / 'configs/dist/published.yml')
    wanted = (control, 'coco/bbox_mAP', 'mimic')
    (target,) = (one for one in published if (one.recipe, one.metric, one.variant) == wanted)
    assert target.value == score


ABLATED = {
    'cityscapes': {'num_tokens', 'dice_weight', 'patch_size', 'groups', 'temperature', 'mask', 'pool_size'},
    'coco': {'num_tokens', 'dice_weight', 'weight_mask', 'student_mask_from'},
    'bccd': {'num_tokens', 'dice_weight', 'weight_mask', 'student_mask_from'},
}


@pytest.mark.parametrize('name', ABLATED)
def test_every_row_of_an_ablation_changes_something_and_can_be_built(name: str) -> None:
    """Each is a distiller of its own, with the options that the row names."""
    suite = load(ROOT / f'benchmarks/{name}_ablations.yaml')
    told = {name: str(configs.method_config(suite, method).model.distillers) for name, method in suite.methods.items()}
    assert len(set(told.values())) == len(told)
    for method in suite.methods.values():
        for option in configs.method_config(suite, method).model.distillers.to_dict().values():
            DISTILLERS.build(option)
    ablated = {key.rpartition('.')[2] for method in suite.methods.values() for key in method.options}
    assert ablated >= ABLATED[name]


@pytest.mark.skipif(not CAMVID.is_dir(), reason=f'no {CAMVID}')
def test_few_labels_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('MMDISTILL_DATA', str(CAMVID.parent))
    suite = load(ROOT / 'benchmarks' / 'camvid_1of8.yaml')
    config = configs.control_config(suite)
    init_default_scope('mmseg')
    assert [len(DATASETS.build(config[f'{split}_dataloader'].dataset)) for split in ('train', 'test')] == [46, 233]


@pytest.mark.skipif(not CAMVID.is_dir(), reason=f'no {CAMVID}')
@pytest.mark.parametrize('name', [pytest.param('bccd_unlabelled', marks=pytest.mark.soak), 'bccd_unlabelled_strict'])
def test_the_few_labels_of_bccd_are_the_first_by_hash(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Also those of the strict teacher; the ceiling has all."""
    monkeypatch.setenv('MMDISTILL_DATA', str(CAMVID.parent))
    suite = load(ROOT / 'benchmarks' / f'{name}.yaml')
    files = sorted(path.name for path in (CAMVID.parent / 'bccd/images/train').iterdir())
    few = sorted(files, key=lambda file: hashlib.sha256(file.encode()).hexdigest())[:51]
    assert suite.teacher is not None
    teacher = configs.teacher_config(suite, suite.teacher)
    ceiling = configs.method_config(suite, suite.methods['all_labels']) if name == 'bccd_unlabelled' else teacher
    init_default_scope('mmdet')
    found = [
        {Path(path).name for path in picture_paths(DATASETS.build(config.train_dataloader.dataset))}
        for config in (configs.control_config(suite), teacher, ceiling)
    ]
    assert found[0] == set(few)
    assert [len(one) for one in found[1:]] == ([205, 205] if name == 'bccd_unlabelled' else [51, 51])
