"""``MonitorHook`` and ``diagnose`` tell the parts of a step apart."""

import json

from mmdistill_dense.apps.inspect.gradients import diagnose
from tests import toys


def run_model():
    """A student that also learns from pictures without labels, and from labels of the teacher there."""
    distillers = dict(fit=dict(type='FitNet', student_tap='backbone[3]', align='conv'))
    more = dict(data_root=toys.picture_folder(), pseudo=dict(threshold=0.3))
    return toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), distillers, unlabelled=more)


def test_both_parts_have_names_of_their_own(tmp_path):
    hook = dict(type='mmdistill_dense.MonitorHook', interval=1, gradient_interval=1)
    toys.train(tmp_path, run_model(), iters=1, custom_hooks=[hook])
    (path,) = tmp_path.glob('*/vis_data/scalars.json')
    names = {name for line in path.read_text().splitlines() for name in json.loads(line)}
    shown = {name.removeprefix('monitor/') for name in names if 'unlabelled' in name and name.startswith('monitor/')}
    own = {f'{kind}.unlabelled' for kind in ('share', 'gradient_share', 'gradient_cosine')}
    assert shown == own | {
        'cosine.fit.unlabelled.backbone.3',
        'share.fit.unlabelled_loss_fitnet',
        'gradient_share.fit.unlabelled_loss_fitnet',
        'gradient_cosine.fit.unlabelled_loss_fitnet',
    }
    assert {name.replace('unlabelled_', '').replace('unlabelled.', '') for name in shown - own} <= {
        name.removeprefix('monitor/') for name in names
    }


def test_diagnose_measures_both_parts(tmp_path):
    with toys.unformatted():
        first, second = diagnose(toys.run_config(tmp_path, run_model(), iters=4), batches=2)
    values = [{term.name: term.value for term in terms} for terms in (first, second)]
    more = 'distill.fit.unlabelled_loss_fitnet'
    assert set(values[0]) == {'task', 'distill.fit.loss_fitnet', more, 'unlabelled'}
    assert values[0][more] != values[1][more], 'other pictures'
