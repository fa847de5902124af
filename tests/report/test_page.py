"""The page of real runs: every part is there, nothing is fetched, what is missing is said."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from markupsafe import escape

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.report import make_report
from mmdistill_dense.apps.report.page import render
from mmdistill_dense.apps.report.predictions import Predictions
from mmdistill_dense.apps.report.runs import Comparison, TrainedRun, compare
from mmdistill_dense.apps.report.section import Chart, Section, Sheet, Strip
from tests import toys
from tests.report.conftest import SEED

ADDRESS = re.compile(r'(?:src|href)\s*=\s*["\'](?!#|data:)|url\(|@import|<iframe|<object', re.IGNORECASE)


def only(section, kind):
    return [item for item in section.items if isinstance(item, kind)]


def test_all_parts_of_a_whole_suite_are_there_the_answer_first(made):
    _, sections = made
    reasons = {name: section.reasons for name, section in sections.items() if section.reasons}
    assert list(reasons) == ['scores']  # the teacher's folder holds no log
    assert len(only(sections['predictions'], Strip)) == 2
    assert list(sections) == ['scores', 'predictions', 'curves', 'settings']
    assert all(section.items for section in sections.values())
    strip = only(made[1]['predictions'], Strip)[0]
    assert titles(strip) == ['input', 'control', 'all', 'kd', 'teacher', 'truth']
    assert all(panel.alt and panel.source.startswith('data:image/webp;base64,') for panel in strip.panels)
    assert next(iter(made[1])) == 'scores'
    said = ' '.join(made[1]['scores'].lead)
    assert 'flatters it: all scores 44.00, the student alone 40.00: +4.00. One seed' in said
    assert escape(said) in made[0].read_text(encoding='utf-8')


def copied(suite: Path, root: Path) -> None:
    """The runs of the control and of one method, to change them."""
    for name in ('control', 'kd'):
        shutil.copytree(suite / 'runs' / name, root / 'runs' / name)


def made_of(root: Path) -> Section:
    """The pictures of a page about them."""
    _, sections = make_report([root], root / 'page.html', pictures=1)
    return next(section for section in sections if section.name == 'predictions')


def titles(strip: Strip) -> list[str]:
    return [panel.caption.split(':')[0] for panel in strip.panels]


def test_scores_are_those_of_the_results_and_each_network_says_how_large_and_fast_it_is(made):
    (table,) = only(made[1]['scores'], Sheet)
    rows = {row[0]: row[1:] for row in table.rows}
    control, kd, both = ([str(SEED), *cells] for cells in (['40.00', ''], ['42.00', '+2.00'], ['44.00', '+4.00']))
    assert {name: row[:3] for name, row in rows.items()} == {'control': control, 'kd': kd, 'all': both}
    assert re.fullmatch(r'\d+\.\d\d x', rows['kd'][3]) and rows['control'][3] == ''
    rows = {row[0]: dict(zip(table.head, row, strict=True)) for row in table.rows}
    network = toys.build_plain(toys.seg_net('fcn'))
    parameters = sum(value.numel() for name, value in network.named_parameters() if 'auxiliary' not in name)
    for row in rows.values():
        assert row['parameters'] == f'{parameters / 1e6:.2f} M' and re.fullmatch(r'\d+ ms', row['a picture'])
    assert len({row['a picture'] for row in rows.values()}) == 1, 'one network with other weights takes one time'


def test_settings_name_what_the_method_adds_and_compared_and_nothing_of_the_folder(made):
    table = next(one for one in only(made[1]['settings'], Sheet) if one.caption.startswith('What kd compared'))
    assert [row[:4] for row in table.rows] == [['kd', 'LogitKD', 'decode_head.conv_seg', 'decode_head.conv_seg']]
    tables = {table.caption.split(',')[0]: table.rows for table in only(made[1]['settings'], Sheet)}
    assert ['model.distillers.kd.type', '–', "'LogitKD'"] in tables['kd']
    assert all(row[0].startswith('model.distillers.') for row in [*tables['kd'], *tables['all']])


def test_a_term_is_drawn_for_the_runs_that_have_it(made):
    charts = {chart.title: chart for chart in only(made[1]['curves'], Chart)}
    assert 'control, seed 5 ends at' in charts['decode.loss_ce'].alt
    assert 'kd, seed 5 ends at' in charts['distill.kd.loss_kd'].alt
    assert 'all' not in charts['distill.kd.loss_kd'].alt
    assert {'distill.kd.share', 'distill.pcd.share', 'distill.maskd.share'} <= set(charts)


def test_the_page_asks_for_nothing_and_holds_no_path_into_the_network(made):
    text = made[0].read_text(encoding='utf-8')
    assert not ADDRESS.search(text)
    assert "default-src 'none'" in text
    assert made[0].stat().st_size < 6 * 2**20


def test_missing_pieces_are_left_out_with_a_reason(suite, tmp_path):
    moved = tmp_path / 'alone'
    shutil.copytree(suite / 'runs' / 'kd' / f'seed{SEED}', moved)
    for checkpoint in moved.glob('*.pth'):
        checkpoint.unlink()
    for log in moved.glob('*/*.log'):
        log.unlink()
    path, sections = make_report([moved], tmp_path / 'page.html')
    reasons = {section.name: ' '.join(section.reasons) for section in sections}
    assert 'no run holds a checkpoint' in reasons['predictions']
    assert 'give one with --control' in reasons['settings']
    text = path.read_text(encoding='utf-8')
    assert all(str(escape(reason)) in text for section in sections for reason in section.reasons)


def test_a_damaged_checkpoint_costs_only_its_own_pictures(suite, tmp_path):
    copied(suite, tmp_path)
    (file,) = (tmp_path / f'runs/kd/seed{SEED}').glob('*.pth')
    torch.save(dict(state_dict={'backbone.conv1.weight': torch.zeros(1)}), file)
    predictions = made_of(tmp_path)
    assert any('does not fit' in reason for reason in predictions.reasons)
    assert titles(predictions.items[0]) == ['input', 'control', 'teacher', 'truth']


def test_a_student_that_predicts_one_class_everywhere_is_noticed(suite, tmp_path):
    copied(suite, tmp_path)
    for name in ('control', 'kd'):
        (file,) = (tmp_path / f'runs/{name}/seed{SEED}').glob('*.pth')
        content = torch.load(file, weights_only=False)
        content['state_dict']['decode_head.conv_seg.bias'][3] = 1e4 if name == 'kd' else 0
        torch.save(content, file)
    predictions = Predictions(compare([tmp_path]), 2)
    assert {name: use.one_class for name, use in predictions.uses.items()}['kd']


def test_a_teacher_that_may_have_other_classes_has_no_pictures(suite, tmp_path):
    copied(suite, tmp_path)
    for config in tmp_path.glob('runs/*/*/*/vis_data/config.py'):
        config.write_text(config.read_text() + "\nmodel['teacher']['allow_other_classes'] = True\n")
    predictions = made_of(tmp_path)
    assert any('model.teacher sets allow_other_classes' in reason for reason in predictions.reasons)
    assert titles(predictions.items[0]) == ['input', 'control', 'kd', 'truth']


def test_names_are_escaped():
    evil = '</script><script>alert(1)</script>'
    comparison = Comparison((TrainedRun(Path('/nowhere'), evil),), ())
    items = [Sheet(evil, [evil], [[evil]]), Chart(evil, evil, f'{{"a": "{evil}"}}')]
    comparison.runs[0].__dict__['config'] = {}
    text = render(comparison, [Section('scores', 'Scores', items=items)])
    assert evil not in text
    assert text.count('alert(1)') > 5


@pytest.mark.parametrize(('arguments', 'said'), [
    (['nowhere'], "'nowhere': no such work dir"),
    (['.'], "'.' is no work dir"),
    (['{kd}', '--pictures', '-1'], 'pictures must be 0 or more, got -1'),
    (['{kd}', '--metric', 'mIuO'], "metric='mIuO' was not logged by any run"),
    (['{kd}', '--out', '.'], 'is a folder'),
    (['{kd}', '--out', 'my_suite.yaml'], "out='my_suite.yaml' must end in .html"),
    (['{kd}', '--out', '{log}/page.html'], "log.txt/page.html' cannot be written: Not a directory"),
    (['{kd}', '--out', '/proc/nowhere/page.html'], "out='/proc/nowhere/page.html' cannot be written"),
])  # fmt: skip
def test_a_mistake_is_told_and_nothing_is_written(suite, tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    kd = suite / 'runs' / 'kd'
    log = tmp_path.with_name('log.txt')
    log.touch()
    assert main(['report', *[argument.format(kd=kd, log=log) for argument in arguments]]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
