"""The command that only learns tokens."""

import pytest
import torch

from mmdistill_dense.__main__ import main
from tests import toys
from tests.distillers.maskd.tokens import LOGITS, seg_model, token_files, tokens_of


@pytest.fixture
def leaf(tmp_path):
    """A config file of a run that has not begun."""
    path = tmp_path / 'leaf.py'
    toys.run_config(tmp_path / 'work', seg_model(), iters=2, log_level='INFO').dump(path)
    return path


@pytest.mark.soak
def test_learning_alone_leaves_what_training_finds(leaf, tmp_path):
    out = tmp_path / 'shared' / 'tokens.pth'
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
def test_nothing_to_learn(tmp_path, distiller, capsys):
    path = tmp_path / 'leaf.py'
    toys.run_config(tmp_path / 'work', seg_model(distiller), iters=2).dump(path)
    assert main(['tokens', str(path)]) == 2
    assert 'nothing to learn' in capsys.readouterr().err


def test_one_file_for_two_distillers_is_refused(tmp_path, capsys):
    path = tmp_path / 'leaf.py'
    model = toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), dict(a=LOGITS, b=LOGITS))
    toys.run_config(tmp_path / 'work', model, iters=2).dump(path)
    assert main(['tokens', str(path), '--out', str(tmp_path / 'x.pth')]) == 2
    assert '--out is one file, but the config has 2 distillers with tokens' in capsys.readouterr().err
