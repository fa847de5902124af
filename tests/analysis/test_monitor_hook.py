"""The hook that shows a run: that training does not notice it, what it writes, its pictures."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement, PixelData
from mmengine.visualization import LocalVisBackend, MLflowVisBackend
from torch import Tensor

from mmdistill_dense.apps.inspect import MonitorHook, drawing
from mmdistill_dense.apps.inspect import monitor as monitor_hook
from mmdistill_dense.apps.inspect.gradients import diagnose, tap_agreement
from mmdistill_dense.distillers import AT
from mmdistill_dense.registry import HOOKS
from mmdistill_dense.utils import distributed
from mmdistill_dense.utils import measuring_hook as tracked
from tests import toys

DISTILLERS = dict(
    kd=dict(type='LogitKD'),
    mimic=dict(type='MaskedMimic', schedule=dict(warmup=4)),
    pcd=dict(type='PCD', queue_size=8, num_pixels=16),
    cirkd=dict(type='CIRKD', pixel_memory=20, region_memory=8, pixel_contrast=16, region_contrast=16),
)
EVERY_TWO = dict(type='mmdistill_dense.MonitorHook', interval=2, gradient_interval=2, picture_interval=2, pictures=1)
BACKENDS = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]


def run(folder: Path, **changes: Any) -> Runner:
    model = toys.model_config(student=toys.seg_net(dropout=0.3), teacher=toys.seg_teacher(), distillers=DISTILLERS)
    return toys.train(folder, toys.run_config(folder, model, iters=4, **changes))


@pytest.fixture(scope='module')
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The work folders of the same four iterations without and with the hook."""
    plain, watched = tmp_path_factory.mktemp('plain'), tmp_path_factory.mktemp('watched')
    run(plain)
    runner = run(watched, custom_hooks=[EVERY_TWO], visualizer=dict(type='Visualizer', vis_backends=BACKENDS))
    assert toys.hooks_left(runner.model) == 0
    runner.visualizer.close()
    return plain, watched


def logged(folder: Path) -> list[dict[str, Any]]:
    (path,) = folder.glob('*/vis_data/scalars.json')
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row for row in rows if any(name.startswith('monitor/') for name in row)]


def tensors(value: Any, path: str = '') -> dict[str, Tensor]:
    if isinstance(value, Tensor):
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {name: found for key, item in items for name, found in tensors(item, f'{path}/{key}').items()}


def test_training_does_not_notice_it(folders: tuple[Path, Path]) -> None:
    """Dropout, random masks, batch statistics, queues, schedules and the optimizer: all bits, to the last iteration."""
    plain, watched = (torch.load(folder / 'iter_4.pth', weights_only=False) for folder in folders)
    for part in ('state_dict', 'optimizer', 'distillers'):
        assert tensors(plain[part])
        assert not toys.differing(tensors(plain[part]), tensors(watched[part])), part


def test_shares_and_cosines_are_written_when_due(folders: tuple[Path, Path]) -> None:
    assert not logged(folders[0])
    rows = logged(folders[1])
    assert [row['step'] for row in rows] == [1, 3]
    for row in rows:
        assert sum(value for name, value in row.items() if name.startswith('monitor/share.')) == pytest.approx(1)
        assert sum(value for name, value in row.items() if '/gradient_share.' in name) == pytest.approx(1)
        cosines = {name: value for name, value in row.items() if 'cosine' in name or '/energy' in name}
        assert all(-1 <= value <= 1 for value in cosines.values())
        assert {
            'monitor/cosine.kd.decode_head.conv_seg',
            'monitor/cosine.mimic.backbone.3',
            'monitor/cosine.pcd.backbone.-1',
            'monitor/energy.cirkd.decode_head.conv_seg.input',
            'monitor/gradient_cosine.kd.loss_kd',
        } <= set(cosines)
        assert 'monitor/gradient_cosine.task' not in row
    share = [row['monitor/share.mimic.loss_mimic'] for row in rows]
    assert share[0] < share[1]  # its weight rises


def columns(picture: np.ndarray) -> list[np.ndarray]:
    """The panels of one row."""
    assert picture.shape[0] == toys.SIDE + drawing.HEAD + drawing.FRAME
    parts = np.split(picture[drawing.HEAD : -drawing.FRAME], picture.shape[1] // (toys.SIDE + 2 * drawing.FRAME), 1)
    return [part[:, drawing.FRAME : -drawing.FRAME] for part in parts]


def test_every_backend_gets_the_pictures(folders: tuple[Path, Path]) -> None:
    (first, second) = sorted(folders[1].glob('*/vis_data/vis_image/monitor_picture_0_*.png'))
    assert [path.stem[-1] for path in (first, second)] == ['2', '4']
    picture = cv2.imread(str(first))
    picture_, teacher, student, differ = columns(picture)
    assert all(column.std() > 0 for column in (picture_, teacher, student, differ))
    assert np.array_equal(teacher, columns(cv2.imread(str(second)))[1])

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = folders[1].glob('*/vis_data/events*')
    found = EventAccumulator(str(events)).Reload().Tags()
    assert 'monitor_picture_0' in found['images']
    assert 'monitor/share.task' in found['scalars']


def test_what_differs_is_where_student_and_teacher_differ() -> None:
    shown = monitor_hook.Pictures(None, [], dict(palette=[[0, 0, 0], [255, 255, 255]]))
    labels = {name: torch.zeros(1, 4, 6, dtype=torch.long) for name in ('teacher', 'student')}
    labels['teacher'][0, 1, 2] = 1
    samples = {name: BaseDataElement(pred_sem_seg=PixelData(data=x)) for name, x in labels.items()}
    panels = shown._panels(np.full((4, 6, 3), 100, np.uint8), samples)
    assert list(panels) == ['teacher', 'student', 'differ: 4.2%']
    coloured = (panels['differ: 4.2%'] == drawing.TEACHER_WRONG).all(2)
    assert coloured[1, 2] and coloured.sum() == 1
    assert (panels['teacher'][1, 2] > panels['student'][1, 2]).all()


# Detection


def test_a_detectors_boxes_are_drawn_for_both() -> None:
    """Also on a picture of floats, which a test pipeline may read."""
    pkd = dict(p=dict(type='PKD', student_tap='neck'))
    model = toys.distilled('mmdet', student=toys.det_net(), teacher=toys.det_teacher(), distillers=pkd)
    teacher = toys.teacher_of(model)
    for network in (model, teacher.network):
        network.bbox_head.test_cfg.score_thr = 0.0  # neither has learned anything
    item, metainfo = toys.det_item(0, 0), dict(classes=('a', 'b'))
    before, modes = toys.student_state(model), [module.training for module in model.modules()]
    stream = torch.get_rng_state()
    for inputs in (item['inputs'], item['inputs'].float()):
        with mock.patch.object(monitor_hook, 'CONFIDENT', 0.0):
            ((name, panel),) = monitor_hook.Pictures(model, [{**item, 'inputs': inputs}], metainfo).draw()
        picture, taught, student = columns(panel)
        assert name == 'monitor_picture_0' and not np.array_equal(picture, student)
        assert not np.array_equal(picture, taught) and not np.array_equal(taught, student)
    assert not toys.differing(before, model.state_dict())
    assert torch.equal(stream, torch.get_rng_state())
    assert modes == [module.training for module in model.modules()]
    teacher.option = replace(teacher.option, allow_other_classes=True)  # it says nothing about the student's classes
    ((_, panel),) = monitor_hook.Pictures(model, [item], metainfo).draw()
    picture, student = columns(panel)
    assert np.array_equal(picture, student), 'it is sure of nothing'


# Figures


def test_cosine_is_that_of_the_aligned_pixels_and_energy_that_of_the_maps() -> None:
    torch.manual_seed(0)
    sizes = {'student': [(2, 4, 5, 6), (2, 4, 2, 3)], 'teacher': [(2, 7, 5, 6), (2, 7, 2, 3)]}
    shapes = {side: {'neck': [torch.Size((1, *size[1:])) for size in own]} for side, own in sizes.items()}
    maps = {side: {'neck': [torch.randn(size) for size in own]} for side, own in sizes.items()}
    aligned = toys.MaskedMimic('neck')
    aligned.setup(**shapes)
    found = tap_agreement(aligned, **maps)
    assert list(found) == ['cosine.neck.0', 'cosine.neck.1']
    for level, value in enumerate(found.values()):
        both = aligned.aligns[level](maps['student']['neck'][level]).detach(), maps['teacher']['neck'][level]
        rows = [x.movedim(1, -1).reshape(-1, 7) for x in both]
        pixels = [float(a @ b / a.norm() / b.norm()) for a, b in zip(*rows, strict=True)]
        assert float(value) == pytest.approx(np.mean(pixels), abs=1e-6) and not value.requires_grad
    relations = AT('neck')
    relations.setup(**shapes)
    found = tap_agreement(relations, **maps)
    assert list(found) == ['energy.neck.0', 'energy.neck.1']
    s, t = (maps[side]['neck'][0].square().sum(1).flatten(1) for side in maps)
    assert float(found['energy.neck.0']) == pytest.approx(float(F.cosine_similarity(s, t).mean()), abs=1e-6)


# Several processes, options


def test_values_are_means_over_the_processes_and_one_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, 'mean_over_ranks', lambda x: x + 0.5)
    assert distributed.means_over_ranks({'a': torch.tensor(1.0), 'b': torch.tensor(2.0)}) == {'a': 1.5, 'b': 2.5}
    runner = mock.Mock()
    MonitorHook()._write(runner, {'cosine.kd.backbone[3]': 0.5, 'gradient_cosine.kd': math.nan}, 7)
    shown = {'monitor/cosine.kd.backbone.3': 0.5, 'iter': 7}
    runner.visualizer.add_scalars.assert_called_once_with(shown, step=7)
    monkeypatch.setattr(tracked, 'is_main_process', lambda: False)
    other = mock.Mock()
    MonitorHook()._write(other, {'a': 1.0}, 7)
    assert not other.mock_calls


@pytest.mark.parametrize('name', ['interval', 'gradient_interval', 'picture_interval', 'pictures'])
def test_a_wrong_number_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f'MonitorHook: {name} must be an integer'):
        MonitorHook(**{name: -1})


def fake_runner(**config: Any) -> Any:
    return SimpleNamespace(cfg=Config(config), logger=mock.Mock(), iter=0, model=None)


def test_a_model_without_distillers_is_not_watched() -> None:
    runner, watching = fake_runner(), HOOKS.build(copy.deepcopy(EVERY_TWO))
    runner.model = torch.nn.Linear(1, 1)
    watching.before_train(runner)
    watching.before_train_iter(runner, 0)
    assert 'no distillers' in runner.logger.info.call_args[0][0]
    assert toys.hooks_left(runner.model) == 0


@pytest.mark.parametrize('config', [dict(compile=True), dict(activation_checkpointing=['backbone'])])
def test_gradients_are_left_out_where_they_cannot_be_taken(config: dict[str, Any]) -> None:
    runner, watching = fake_runner(**config), MonitorHook(picture_interval=5)
    runner.model = torch.nn.Linear(1, 1)
    runner.model.distillation = None
    watching.before_train(runner)
    assert watching.gradient_interval == 0
    said = [call[0][0] for call in runner.logger.warning.call_args_list]
    assert 'cannot be taken' in said[0] and 'val_dataloader' in said[1]
    assert watching.pictures is None


def test_a_step_in_half_precision_is_measured_and_stays_as_it_is() -> None:
    model = toys.distilled(teacher=toys.seg_teacher(), distillers=dict(kd=dict(type='LogitKD')))
    runner, watching = fake_runner(), MonitorHook()
    runner.model = model
    runner.optim_wrapper = SimpleNamespace(loss_scaler=SimpleNamespace(get_scale=lambda: 1024.0))
    watching.before_train(runner)

    def step() -> dict[str, Tensor]:
        model.zero_grad()
        with torch.autocast('cpu', torch.bfloat16):
            losses = toys.losses_of(model)
        toys.total(losses).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    plain = step()
    watching.before_train_iter(runner, 0)
    assert not toys.differing(plain, step())
    found = watching._found
    assert all(math.isfinite(value) for value in found.values())
    assert found['gradient_share.task'] + found['gradient_share.kd.loss_kd'] == pytest.approx(1)
    assert {'cosine.kd.decode_head.conv_seg', 'gradient_cosine.kd.loss_kd', 'share.task'} <= set(found)


def test_mlflow_gets_a_name_with_the_step_and_an_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes a file, and refuses a name without an ending (mmengine #1681)."""
    shown: list[tuple[type, str, int]] = []
    for kind in (MLflowVisBackend, LocalVisBackend):
        monkeypatch.setattr(kind, 'add_image', lambda self, name, image, step: shown.append((type(self), name, step)))
    backends = {kind.__name__: object.__new__(kind) for kind in (MLflowVisBackend, LocalVisBackend)}
    monitor_hook._show(SimpleNamespace(_vis_backends=backends), 'monitor/picture_0', np.zeros((2, 2, 3), np.uint8), 7)
    assert shown == [(MLflowVisBackend, 'monitor/picture_0_7.png', 7), (LocalVisBackend, 'monitor/picture_0', 7)]


# Pictures without labels


def of_both_parts() -> dict[str, Any]:
    """A student that also learns from pictures without labels."""
    distillers = dict(fit=dict(type='FitNet', student_tap='backbone[3]', align='conv'))
    more = dict(data_root=toys.picture_folder())
    return toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), distillers, unlabelled=more)


def test_both_parts_have_names_of_their_own(tmp_path: Path) -> None:
    hook = dict(type='mmdistill_dense.MonitorHook', interval=1, gradient_interval=1)
    toys.train(tmp_path, of_both_parts(), iters=1, custom_hooks=[hook])
    (path,) = tmp_path.glob('*/vis_data/scalars.json')
    names = {name for line in path.read_text().splitlines() for name in json.loads(line)}
    shown = {name.removeprefix('monitor/') for name in names if 'unlabelled' in name and name.startswith('monitor/')}
    assert shown == {
        'cosine.fit.unlabelled.backbone.3',
        'share.fit.unlabelled_loss_fitnet',
        'gradient_share.fit.unlabelled_loss_fitnet',
        'gradient_cosine.fit.unlabelled_loss_fitnet',
    }
    assert {name.replace('unlabelled_', '').replace('unlabelled.', '') for name in shown} <= {
        name.removeprefix('monitor/') for name in names
    }


def test_diagnose_measures_both_parts(tmp_path: Path) -> None:
    with toys.unformatted():
        first, second = diagnose(toys.run_config(tmp_path, of_both_parts(), iters=4), batches=2)
    values = [{term.name: term.value for term in terms} for terms in (first, second)]
    more = 'distill.fit.unlabelled_loss_fitnet'
    assert set(values[0]) == {'task', 'distill.fit.loss_fitnet', more, 'unlabelled'}
    assert values[0][more] != values[1][more], 'other pictures'
