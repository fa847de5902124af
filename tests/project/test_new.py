"""``new``: what own data change in networks of the zoo, and the files that are written."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mmseg.structures import SegDataSample

from mmdistill_dense.apps.check.context import Options
from mmdistill_dense.apps.check.run import check_config
from mmdistill_dense.apps.project import network_options as fetched_weights
from mmdistill_dense.apps.project.network_options import read_network
from mmdistill_dense.apps.project.new import write
from mmdistill_dense.apps.project.teachers import check_queue, distillers_for, methods_of, parse_teacher_classes
from mmdistill_dense.config.resolve import load_model, student_option
from mmdistill_dense.foundation.vit import Rotary, ViT, architecture
from mmdistill_dense.guards.config import batch_problem
from mmdistill_dense.networks.building import build_network
from tests.project.commands import CASCADE, FASTSCNN, RETINANET, SEGFORMER, call, own_network, read, toy_pair
from tests.project.folders_of_data import box_folder, picture, seg_folder

PIDNET = 'mmseg::pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py'
DDRNET = 'mmseg::ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py'
RTMDET_INS = 'mmdet::rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py'
DETR = 'mmdet::detr/detr_r18_8xb2-500e_coco.py'

pytestmark = pytest.mark.usefixtures('folder')


def models(name: str) -> tuple[Any, Any]:
    config = read(name)
    return load_model(student_option(config.model), 'student').model, load_model(
        {key: value for key, value in config.model.teacher.items() if key != 'checkpoint'}, 'teacher'
    ).model


def test_heads_in_lists_are_set(capsys: pytest.CaptureFixture) -> None:
    seg_folder(Path('mine'))
    call(FASTSCNN, SEGFORMER, '--classes', 'a', 'b', 'c', '--size', '32', '64')
    student, teacher = models('control')
    assert student.decode_head.num_classes == 3
    assert [head.num_classes for head in student.auxiliary_head] == [3, 3]
    assert tuple(student.data_preprocessor.size) == tuple(teacher.data_preprocessor.size) == (32, 64)
    assert teacher.test_cfg == {'mode': 'whole'}
    assert read('control').model.teacher.pretrained is False and 'init_cfg' not in teacher.backbone
    assert 'STARTS FROM RANDOM WEIGHTS' in capsys.readouterr().out


def test_a_pidnet_gets_its_edges() -> None:
    """Its weights are those of Cityscapes, not of these 19 classes; its loss needs edges drawn from the labels."""
    seg_folder(Path('mine'), range(19))
    call(FASTSCNN, PIDNET)
    _, teacher = models('control')
    assert all(loss.get('class_weight') is None for loss in teacher.decode_head.loss_decode)
    for name in ('control', 'teacher'):
        *_, edges, pack = read(name).train_dataloader.dataset.pipeline
        assert edges == {'type': 'GenerateEdge', 'edge_width': 4} and pack.type == 'PackSegInputs'


def test_methods_are_given_or_the_default() -> None:
    assert methods_of(['kd', 'cwd', 'kd'], 'seg', False) == ['kd', 'cwd']
    assert methods_of([], 'seg', False) == ['kd'] and methods_of([], 'det', False) == ['fgd']
    assert methods_of([], 'det', True) == ['featurematch']
    assert methods_of([], 'det', False, masks=True) == ['kd']
    assert methods_of([], 'det', False, unlabelled=True, masks=True) == ['pkd']
    assert methods_of([], 'seg', False, unlabelled=True) == ['kd']


@pytest.mark.parametrize('name', ['maskd', 'freekd'])
def test_tokens_are_learned_no_longer_than_a_short_training(name: str) -> None:
    student, teacher = (read_network(path, f'--{path[:-3]}') for path in toy_pair())
    short, long = (distillers_for(name, student, teacher, steps)[name]['learn'] for steps in (20, 4000))
    assert short == {**long, 'max_iters': 20} and long.get('max_iters') != 4000


def test_the_files_are_short(capsys: pytest.CaptureFixture) -> None:
    seg_folder(Path('mine'))
    call(FASTSCNN, SEGFORMER, '--iters', '20', '--method', 'kd', 'cwd')
    printed = capsys.readouterr().out
    assert 'project/labels.png: 4 pictures with their labels' in printed
    assert 'WARNING: fewer than 5 pictures for training show: class_0 (4), class_1 (4)' in printed
    written = sorted(path.name for path in Path('project').iterdir())
    assert written == ['control.py', 'cwd.py', 'data.py', 'kd.py', 'labels.png', 'pair.py', 'suite.yaml', 'teacher.py']
    assert all(path.read_text().count('\n') <= 60 for path in Path('project').glob('*.[py]*') if path.suffix != '.png')
    cwd = {'type': 'CWD', 'loss_weight': 0.25, 'schedule': {'ramp_down': (0, 1.0)}}
    assert read('cwd').model.distillers == {'cwd': cwd}
    control, teacher = read('control'), read('teacher')
    assert control.optim_wrapper.optimizer == teacher.optim_wrapper.optimizer and control.train_cfg == teacher.train_cfg
    assert control.model.teacher.checkpoint.endswith('project/work/teacher/iter_20.pth')
    described = {key: value for key, value in control.model.teacher.items() if key != 'checkpoint'}
    assert teacher.model.student == described
    assert batch_problem(control, 1) is None


def test_heads_of_detectors(capsys: pytest.CaptureFixture) -> None:
    box_folder(Path('mine'), masks=True)
    call(RETINANET, CASCADE, '--method', 'pkd')
    student, teacher = models('control')
    assert student.bbox_head.num_classes == 2
    assert [head.num_classes for head in teacher.roi_head.bbox_head] == [2, 2, 2]
    assert teacher.roi_head.mask_head.num_classes == 2
    assert student.backbone.frozen_stages == -1 and student.backbone.norm_eval is False
    config = read('control')
    assert config.train_pipeline[1].with_mask  # the teacher is trained on them
    assert config.val_evaluator.metric == 'bbox'
    assert config.val_evaluator.ann_file == str(Path('mine/annotations/instances_val.json').resolve())
    assert config.train_dataloader.dataset.metainfo.classes == ('red', 'white')


@pytest.mark.soak
def test_detectors_of_multiples_get_padded_batches(capsys: pytest.CaptureFixture) -> None:
    """RTMDet's own configs pad every picture; masks of the student are loaded."""
    box_folder(Path('mine'), masks=True)
    call(RTMDET_INS, RETINANET, '--method', 'pkd')
    student, teacher = models('control')
    assert student.data_preprocessor.pad_size_divisor == 32 == teacher.data_preprocessor.pad_size_divisor
    assert capsys.readouterr().out.count('multiples of 32: batches are padded') == 1
    assert read('control').train_pipeline[1].with_mask and read('control').val_evaluator.metric == ['bbox', 'segm']


def test_a_detector_with_queries_builds_with_its_settings() -> None:
    box_folder(Path('mine'))
    call(DETR, RETINANET)
    assert read('fgd').model.distillers['fgd']['type'] == 'FGD', 'the default for detectors'
    network = build_network(load_model(student_option(read('control').model), 'student'))
    assert network.bbox_head.num_classes == 2
    with torch.no_grad():
        assert network.bbox_head.fc_cls.out_features == 3


def foundation_file(path: str, model: str) -> None:
    """A file with the entries of a model; all values of an entry are one number, so the file is small."""
    with torch.device('meta'):
        network = ViT(architecture(model))
    if network.shape.rotary:
        network.rope = Rotary(network.shape.dim // network.shape.heads)
    state = {name: torch.zeros(()).expand(entry.shape) for name, entry in network.state_dict().items()}
    torch.save(state, path)


@pytest.mark.parametrize(('model', 'holds'), [('dinov2_vits14', 'dinov2_vitb14'), ('dino_vits16', 'dino_vits8')])
def test_a_file_of_another_foundation_model_is_refused(model: str, holds: str, capsys: pytest.CaptureFixture) -> None:
    seg_folder(Path('mine'))
    foundation_file('dino.pth', holds)
    student, _ = toy_pair()
    call(student, f'{model}:dino.pth', code=2)
    printed = capsys.readouterr().err
    assert f'--teacher {model}:dino.pth does not fit model={model}' in printed
    assert 'of another model than the option names' in printed
    foundation_file('dino.pth', model)
    call(student, f'{model}:dino.pth')


def test_a_teacher_of_other_classes_keeps_its_head(capsys: pytest.CaptureFixture) -> None:
    seg_folder(Path('mine'))
    own_network('model = dict(decode_head=dict(num_classes=5))\n', classes=5)
    state = torch.load('mine.pth', weights_only=True)
    names = ['tree', 'Road', 'sky', 'lane', 'sea']
    student, _ = toy_pair()
    call(student, 'network.py', '--teacher-checkpoint', 'mine.pth', '--teacher-classes', 'auto', code=2)
    assert 'the file does not say the names of its classes' in capsys.readouterr().err
    torch.save({**state, 'meta': {'dataset_meta': {'classes': names}}}, 'mine.pth')
    argv = ('--teacher-checkpoint', 'mine.pth', '--classes', 'sky', 'road', 'leaf', '--method', 'kd', 'cwd')
    with pytest.raises(ValueError, match='--teacher-classes auto: write auto, or MINE=THEIRS'):
        parse_teacher_classes(['auto', 'road=Road,lane'])
    call(student, 'network.py', *argv, '--teacher-classes', 'snow=sky', code=2)
    assert "--teacher-classes: 'snow' is no class of the student's: sky, road, leaf" in capsys.readouterr().err
    call(student, 'network.py', *argv, '--teacher-classes', 'road=Road,lane')
    printed = capsys.readouterr().out
    assert '--teacher-classes: 2 of 3 classes have a partner: sky <- sky; road <- Road, lane' in printed
    assert 'does not know leaf' in printed and '2 classes of the teacher are left out (tree, sea)' in printed
    pair = read('kd')
    assert pair.model.teacher.checkpoint == str(Path('mine.pth').resolve())
    assert pair.model.teacher.classes == {'sky': ['sky'], 'road': ['Road', 'lane'], 'leaf': []}
    student, teacher = models('kd')
    assert (student.decode_head.num_classes, teacher.decode_head.num_classes) == (3, 5)
    assert 'test_teacher: true' in Path('project/suite.yaml').read_text() and not Path('project/teacher.py').exists()
    report = check_config(Path('project/kd.py'), Options(val=0))
    assert not report.stopped and any('sky <- sky' in note.message for note in report.findings)
    shutil.rmtree('project')  # a config of another count, as of a model of the zoo, takes that of the file
    network = Path('network.py')
    network.write_text(network.read_text().replace('num_classes=5', 'num_classes=19'))
    call(toy_pair()[0], 'network.py', *argv, '--teacher-classes', 'auto')
    assert models('kd')[1].decode_head.num_classes == 5


def test_a_foundation_model_teaches_a_project() -> None:
    seg_folder(Path('mine'))
    foundation_file('dino.pth', 'dinov2_vits14')
    for number in range(4):
        picture(Path(f'more/{number}.jpg'), 50 + number)
    call(toy_pair()[0], 'dinov2_vits14:dino.pth', '--unlabelled', 'more')
    model = read('featurematch').model
    assert model.teacher.type == 'mmdistill_dense.FoundationTeacher' and model.teacher.model == 'dinov2_vits14'
    assert model.distillers.featurematch.teacher_tap == 'map'
    assert model.unlabelled == {'data_root': str(Path('more').resolve()), 'ratio': 1}
    assert not Path('project/teacher.py').exists()


def test_weights_of_a_hub_are_named_by_their_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('huggingface_hub.hf_hub_download', lambda repository, name, revision: name)
    seg_folder(Path('mine'))
    foundation_file('dino.pth', 'dinov2_vits14')
    student, _ = toy_pair()
    call(student, 'dinov2_vits14:hf://user/repo/dino.pth')
    assert read('featurematch').model.teacher.checkpoint == 'hf://user/repo/dino.pth'
    shutil.rmtree('project')
    own_network()
    state, names = torch.load('mine.pth', weights_only=True), ['sky', 'road', 'leaf']
    torch.save({**state, 'meta': {'dataset_meta': {'classes': names}}}, 'mine.pth')
    call(student, 'network.py', '--teacher-checkpoint', 'hf://user/repo@v1/mine.pth', '--method', 'kd')
    pair = read('kd')
    assert pair.model.teacher.checkpoint == 'hf://user/repo@v1/mine.pth'
    assert list(pair.train_dataloader.dataset.metainfo.classes) == names
    call(student, 'dinov2_vitb14:hf://user/repo/dino.pth', code=2)


@pytest.mark.soak
def test_a_network_of_one_size_is_tested_in_windows() -> None:
    """BEiT's table of relative places has the size of its config, 640x640; any other failed at the first step."""
    side = read_network('mmseg::beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py', '--student')
    fetched_weights.adapt(side, 3, fetched_weights.sizes(side, (32, 64), (48, 64)), True, random=True)
    assert 'backbone' not in fetched_weights.sizes(side, (32, 64), (48, 64), trained=False)
    other = read_network('mmseg::segmenter/segmenter_vit-t_mask_8xb1-160k_ade20k-512x512.py', '--student')
    assert 'backbone' not in fetched_weights.sizes(other, (32, 64), (48, 64)), 'it takes any size'
    assert 'it takes one size, 32x64' in side.notes[0] and side.changes['test_cfg']['crop_size'] == (32, 64)
    network = build_network(load_model(side.option, 'student'), pretrained=False).eval()
    samples = [SegDataSample(metainfo={'ori_shape': shape, 'img_shape': shape}) for shape in [(48, 80), (20, 64)]]
    for sample in samples:  # larger and smaller than the crop
        data = {'inputs': [torch.zeros(3, *sample.img_shape)], 'data_samples': [sample]}
        with torch.no_grad():
            assert network.test_step(data)[0].pred_sem_seg.shape == sample.ori_shape


@pytest.mark.soak
def test_a_network_of_multiples_is_tested_on_padded_pictures(capsys: pytest.CaptureFixture) -> None:
    seg_folder(Path('mine'))
    call(FASTSCNN, DDRNET, '--size', '32', '64')
    student, teacher = models('control')
    assert student.data_preprocessor.get('test_cfg') is None
    assert teacher.data_preprocessor.test_cfg == {'size_divisor': 8}
    assert 'multiples of 8: tested pictures are padded' in capsys.readouterr().out
    call(FASTSCNN, DDRNET, '--size', '30', '64', '--out', 'other', code=2)
    assert 'multiples of 8, and the crop is 30x64. Write --size 32 64' in capsys.readouterr().err


def test_divided_data_have_their_lists(folder: Path) -> None:
    seg_folder(Path('mine'), splits=('train',))
    call(*toy_pair())
    assert Path(read('control').train_dataloader.dataset.ann_file) == folder / 'project/train.txt'
    assert len(Path('project/train.txt').read_text().split()) == 3


def test_a_missing_file_is_written_again(tmp_path: Path) -> None:
    """`run` says so; but the number of reading processes was another content of data.py."""
    files = {'data.py': 'loader = dict(batch_size=2, num_workers=4)\n', 'pair.py': 'a = 1\n'}
    write(files, tmp_path)
    (tmp_path / 'pair.py').unlink()
    write({**files, 'data.py': 'loader = dict(batch_size=2, num_workers=0)\n'}, tmp_path)
    assert {name: (tmp_path / name).read_text() for name in files} == files
    other = {**files, 'data.py': 'loader = dict(batch_size=3, num_workers=4)\n'}
    message = 'data.py exist there with other contents. Give another --out. Or remove this one, which holds no'
    with pytest.raises(FileExistsError, match=message):
        write(other, tmp_path)
    (tmp_path / 'work/teacher').mkdir(parents=True)
    with pytest.raises(FileExistsError, match='Do not remove the folder to write it anew: .*/work holds results'):
        write(other, tmp_path)


def test_a_wrong_command_line_is_told_before_any_import(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seg_folder(Path('mine'))
    Path('mine/photos').mkdir()
    monkeypatch.setitem(sys.modules, 'mmdistill_dense.apps.project.new', None)  # an import of it fails
    cases = {
        ('--data', 'nowhere'): '--data nowhere: no such folder',
        ('--method', 'pcd', 'cwdd'): '--method cwdd: unknown. Close: cwd',
        ('--out', 'mine'): '--out mine: it holds other files (images, labels, photos) and no project (suite.yaml)',
    }
    for words, message in cases.items():
        call(FASTSCNN, SEGFORMER, *words, code=2)
        assert message in capsys.readouterr().err


def test_another_default_where_the_usual_one_does_not_fit(capsys: pytest.CaptureFixture) -> None:
    seg_folder(Path('mine'))
    boxes = box_folder(Path('boxes'))
    pair = toy_pair()
    call(*pair, '--iters', '4')
    assert list(read('kd').model.distillers) == ['kd']
    assert 'methods:\n  kd: {config: kd.py}\n' in Path('project/suite.yaml').read_text()
    call(*pair, '--method', 'pcd', '--out', 'other', code=2)
    message = '--method pcd: it needs 12 training pictures, and there are 4. Take another method, such as kd'
    assert message in capsys.readouterr().err
    check_queue(['pcd'], 12)
    c4, fpn = (f'mmdet::faster_rcnn/faster-rcnn_r50{name}_coco.py' for name in ('-caffe-c4_ms-1x', '_fpn_1x'))
    call(c4, fpn, '--data', str(boxes), '--out', 'c4')
    assert 'has no neck to compare with): kd in its place' in capsys.readouterr().out
