"""Tokens for tools that look at them, and the tool that only learns."""

import shutil
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmdistill_dense.__main__ import main
from mmdistill_dense.distillers.maskd import ready_distiller
from tests import toys
from tests.distillers.maskd.tokens import LOGITS, det_model, seg_model, token_files, tokens_of


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """The config of a detection run and its tokens."""
    work_dir = tmp_path_factory.mktemp('finished')
    config = toys.det_run_config(work_dir, det_model())
    return config, tokens_of(toys.train(work_dir, config))


def values(distiller):
    return dict(distiller.mask_modules.state_dict())


@pytest.mark.parametrize('source', ['work folder', 'tokens', 'checkpoint', 'checkpoint as tokens'])
def test_a_distiller_is_ready_without_training(finished, source):
    config, tokens = finished
    folder = Path(config.work_dir)
    options = {
        'work folder': {},
        'tokens': dict(tokens=str(next((folder / 'maskd_tokens').iterdir()))),
        'checkpoint': dict(checkpoint=str(folder / 'iter_2.pth')),
        'checkpoint as tokens': dict(tokens=str(folder / 'iter_2.pth')),
    }[source]
    model, distiller = ready_distiller(config, **options)
    assert not model.training and not toys.differing(values(distiller), tokens)
    maps = distiller.teacher(model.data_preprocessor(toys.det_batch())['inputs'])['neck']
    masks, weights = zip(*(distiller.drawn_masks(level, x)[''] for level, x in enumerate(maps)), strict=True)
    assert [tuple(m.shape) for m in masks] == [(2, 3, *x.shape[2:]) for x in maps]
    for mask, weight in zip(masks, weights, strict=True):
        assert mask.min() > 0 and mask.max() < 1 and weight.shape == (2, 3)
        torch.testing.assert_close(weight.sum(1), torch.ones(2))
    written = torch.load(folder / 'iter_2.pth', weights_only=False)['state_dict']
    trained = not toys.differing(toys.student_state(model), written)
    assert trained == (source == 'checkpoint')


def test_tokens_of_a_suite_are_found_from_the_config(finished, tmp_path):
    """`run` trains in work/runs/NAME/seed0, and the work folder of the config is work/NAME."""
    config, tokens = finished
    (file,) = (Path(config.work_dir) / 'maskd_tokens').glob('*.pth')
    folder = tmp_path / 'work/runs/maskd/seed0/maskd_tokens'
    folder.mkdir(parents=True)
    shutil.copy(file, folder)
    _, distiller = ready_distiller(Config(dict(config.to_dict(), work_dir=str(tmp_path / 'work/maskd'))))
    assert not toys.differing(values(distiller), tokens)


def test_the_picture_tool_ends_with_one_line_without_tokens(leaf, capsys):
    assert main(['visualize', 'masks', str(leaf)]) == 2
    assert capsys.readouterr().err.startswith('ERROR    There are no tokens at')


def test_tokens_that_were_learned_with_other_options_are_named(tmp_path):
    config = toys.run_config(tmp_path, seg_model())
    with pytest.raises(FileNotFoundError, match=r'no tokens at .*maskd_tokens.*mmdistill tokens') as missing:
        ready_distiller(config)
    folder = Path(str(missing.value).split("'")[1]).parent
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'maskd-other.pth').touch()
    with pytest.raises(FileNotFoundError, match=r'maskd-other.pth is of other settings: repeat the --cfg-options'):
        ready_distiller(config)


def test_a_config_without_maskd(tmp_path):
    kd = toys.model_config(distillers=dict(kd=dict(type='LogitKD')))
    for model in (kd, toys.seg_net()):
        with pytest.raises(KeyError, match="holds no dict\\(type='MasKD'"):
            ready_distiller(toys.run_config(tmp_path, model))


def test_a_checkpoint_without_distillers(finished, tmp_path):
    config, _ = finished
    path = tmp_path / 'student.pth'
    content = torch.load(Path(config.work_dir) / 'iter_2.pth', weights_only=False)
    torch.save(dict(state_dict=content['state_dict']), path)
    with pytest.raises(ValueError, match='student.pth.*holds no distillers'):
        ready_distiller(config, checkpoint=str(path))


# mmdistill tokens


@pytest.fixture
def leaf(tmp_path):
    """A config file of a run that has not begun."""
    path = tmp_path / 'leaf.py'
    toys.run_config(tmp_path / 'work', seg_model(), iters=2, log_level='INFO').dump(path)
    return path


@pytest.mark.soak
def test_learning_alone_leaves_what_training_finds(leaf, tmp_path):
    out = tmp_path / 'shared' / 'tokens.pth'
    with toys.unformatted():
        main(['tokens', str(leaf), '--out', str(out)])
    (name,) = token_files(tmp_path / 'work')
    assert not list((tmp_path / 'work').glob('*.pth')), 'no student was trained'
    learned = torch.load(tmp_path / 'work' / 'maskd_tokens' / name, weights_only=True)
    again = torch.load(out, weights_only=True)
    assert learned['meta'] == again['meta'] and not toys.differing(learned['state_dict'], again['state_dict'])
    before = (tmp_path / 'work' / 'maskd_tokens' / name).stat()
    config = toys.run_config(tmp_path / 'work', seg_model(), iters=2)
    own = tokens_of(toys.train(None, config))
    assert (tmp_path / 'work' / 'maskd_tokens' / name).stat().st_mtime_ns == before.st_mtime_ns
    given = toys.train(tmp_path / 'other', seg_model(dict(LOGITS, tokens=str(out))), iters=1)
    assert not toys.differing(own, tokens_of(given))


@pytest.mark.parametrize('distiller', [dict(type='LogitKD'), dict(LOGITS, tokens='x.pth')])
def test_nothing_to_learn(tmp_path, distiller):
    path = tmp_path / 'leaf.py'
    toys.run_config(tmp_path / 'work', seg_model(distiller), iters=2).dump(path)
    with pytest.raises(ValueError, match='nothing to learn'), toys.unformatted():
        main(['tokens', str(path)])


def test_one_file_for_two_distillers_is_refused(tmp_path):
    path = tmp_path / 'leaf.py'
    model = toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), dict(a=LOGITS, b=LOGITS))
    toys.run_config(tmp_path / 'work', model, iters=2).dump(path)
    with (
        pytest.raises(ValueError, match='--out is one file, but the config has 2 distillers with tokens'),
        toys.unformatted(),
    ):
        main(['tokens', str(path), '--out', str(tmp_path / 'x.pth')])


def test_a_checkpoint_of_another_teacher(finished, tmp_path):
    config, _ = finished
    model = det_model()
    content = torch.load(model['teacher']['checkpoint'], weights_only=True)
    content['state_dict']['backbone.conv1.weight'] += 1
    torch.save(content, tmp_path / 'other.pth')
    model['teacher'] = dict(model['teacher'], checkpoint=str(tmp_path / 'other.pth'))
    written = str(Path(config.work_dir) / 'iter_2.pth')
    with pytest.raises(ValueError, match=r'iter_2\.pth.*holds tokens of the teacher t\w+, but this config has t\w+'):
        ready_distiller(toys.det_run_config(tmp_path, model), checkpoint=written)
