"""What ``check`` says of pictures without labels."""

import io

from rich.console import Console

from mmdistill_dense.apps.check import Options, check_config
from mmdistill_dense.apps.check.render import show
from tests import toys
from tests.engine.test_unlabelled_stream import files


def config(folder, pictures, **changes):
    distillers = dict(kd=dict(type='LogitKD'), fit=dict(type='FitNet', student_tap='backbone[3]', align='conv'))
    unlabelled = dict(data_root=str(pictures), ratio=1.5)
    model = toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), distillers, unlabelled=unlabelled)
    return toys.run_config(folder, model, **changes)


def test_both_parts_are_in_the_step_and_their_number_is_told(tmp_path):
    report, text = check_config(config(tmp_path, toys.picture_folder()), Options(val=2, cost=False)), io.StringIO()
    names = [term.name for term in report.subject.terms]
    assert {'distill.kd.unlabelled_loss_kd', 'distill.fit.unlabelled_loss_fitnet'} < set(names)
    rows = {row.distiller: row.student_shape[0] for row in report.subject.taps}
    assert rows == dict(kd=2, fit=2), 'the shapes are those of the labelled pictures'
    show(report, Console(file=text, width=200))
    assert '6 pictures without labels, 3 a step' in text.getvalue()
    assert report.as_dict()['unlabelled']['pictures'] == 6


def test_pictures_of_validation_stop_the_check(tmp_path):
    pictures = toys.picture_folder()
    run = config(tmp_path, pictures)
    for name, value in files(pictures, 'val').items():
        run[name] = value
    found = check_config(run, Options(val=0, cost=False))
    assert found.stopped == 'reading the pictures without labels' and found.exit_code() == 2
    assert 'pictures are also in val_dataloader' in found.findings[-1].message
