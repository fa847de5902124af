"""The section of a race: its table, what became of each candidate, and what rate and teacher bought."""

import json
from pathlib import Path
from typing import Any

from mmdistill_dense.apps.report.section import Table
from mmdistill_dense.apps.report.settings import race_section, students_alone

RECORD: dict[str, Any] = {
    'rates': [1, 2],
    'methods': {'kd': {}, 'cwd': {}},
    'long': 2.5,
    'rung': 0.5,
    'seeds': [7, 1],
    'rows': {'alone_x2': {'rate': 2}, 'alone_long': {'rate': 2, 'length': 2.5}, 'kd': {'rate': 2}, 'cwd': {'rate': 2}},
    'left_out': {'maskd': 'the plan has no time for it'},
    'failed': {'cwd': 'loss is NaN'},
    'told': ['Learning rate: alone_x2 is the best.'],
    'best': 'alone_x2',
    'winner': 'kd',
    'alone': 'alone_x2',
    'lead': 3.25,
    'margin': 1.4,
    'scores': {'kd': {'7': 45.5, '1': 46.0}, 'alone_x2': {'7': 42.5, '1': 42.5}},
}


def written(
    folder: Path, row: str, score: float, minutes: float, name: str = 'rung', seed: int = 7, **more: Any
) -> None:
    place = folder / 'runs' / row / f'seed{seed}'
    place.mkdir(parents=True, exist_ok=True)
    (place / f'{name}.json').write_text(json.dumps({'score': score, 'minutes': minutes, 'seed': seed, **more}))


def test_it_is_said_if_test_prefers_another_row(tmp_path: Path) -> None:
    (tmp_path / 'race.json').write_text(json.dumps(RECORD))
    for row, seed, score in (('kd', 7, 45.0), ('kd', 1, 44.0), ('alone_x2', 7, 46.0), ('alone_x2', 1, 46.0)):
        written(tmp_path, row, score, 3.0, 'result', seed)
    assert _said_of_test(tmp_path) == ['On test, alone_x2 has 46.00 and kd 44.50']
    written(tmp_path, 'alone_x2', 45.5, 3.0, 'result', 7)
    assert not _said_of_test(tmp_path), 'within what chance gives'
    written(tmp_path, 'alone_x2', 60.0, 3.0, 'result', 5)
    assert not _said_of_test(tmp_path), 'a seed that the winner does not have'
    written(tmp_path, 'alone_x2', 60.0, 3.0, 'result', 7, test_is_val=True)
    assert not _said_of_test(tmp_path)


def _said_of_test(folder: Path) -> list[str]:
    section = race_section(folder, 'mIoU')
    assert section is not None
    return [sentence.partition(':')[0] for sentence in section.lead if sentence.startswith('On test')]


def test_rows_of_the_student_alone_are_no_methods(tmp_path: Path) -> None:
    assert not students_alone(tmp_path) and not students_alone(None)
    longer = {'row': 'kd_long', 'of': 'kd', 'seeds': 1}
    (tmp_path / 'race.json').write_text(json.dumps({**RECORD, 'longer': longer}))
    assert students_alone(tmp_path) == ['control', 'alone_x2', 'alone_long']


def test_a_suite_without_a_race_has_none(tmp_path: Path) -> None:
    assert race_section(tmp_path, 'mIoU') is None


def test_each_candidate_has_its_scores_its_minutes_and_its_fate(tmp_path: Path) -> None:
    (tmp_path / 'race.json').write_text(json.dumps(RECORD))
    for row, score in (('control', 40.0), ('alone_x2', 41.5), ('alone_long', 41.0), ('kd', 44.0)):
        written(tmp_path, row, score, 1.5)
    for row, seed in (('kd', 7), ('kd', 1), ('alone_x2', 7)):
        written(tmp_path, row, 45.0, 3.0, 'result', seed)
    section = race_section(tmp_path, 'mIoU')
    assert section is not None
    (table,) = section.items
    assert isinstance(table, Table)
    assert [list(row) for row in table.rows] == [
        ['control', '1', '1', '40.00', '–', '1.5', 'stopped at 50%'],
        ['alone_x2', '2', '1', '41.50', '42.50, 42.50', '3.0', 'trained to the end'],
        ['alone_long', '2', '2.5', '41.00', '–', '1.5', 'stopped at 50%'],
        ['kd', '2', '1', '44.00', '45.50, 46.00', '6.0', 'wins'],
        ['cwd', '2', '1', '–', '–', '0.0', 'failed: loss is NaN'],
        ['maskd', '–', '–', '–', '–', '–', 'left out: the plan has no time for it'],
    ]
    assert section.lead == [
        'Learning rate: alone_x2 is the best.',
        'The learning rate bought +1.50 (at 50% of the training).',
        'The teacher bought +3.25 on top (at the end).',
    ]
    assert section.reasons == ['No curves of the candidates: none was evaluated yet.']


def test_a_race_that_goes_on_has_no_winner_yet(tmp_path: Path) -> None:
    """More hours judge again; the scores of before are there."""
    record = {key: value for key, value in RECORD.items() if key != 'winner'}
    (tmp_path / 'race.json').write_text(json.dumps(record))
    for row in ('kd', 'alone_x2'):
        written(tmp_path, row, 45.0, 3.0, 'result', 7)
    section = race_section(tmp_path, 'mIoU')
    assert section is not None and section.items and 'wins' not in str(section.items[0])


def test_a_method_with_more_time_is_a_candidate(tmp_path: Path) -> None:
    rows = {**RECORD['rows'], 'kd_long': {'method': 'kd', 'rate': 2, 'length': 2.5}}
    record = {**RECORD, 'longer': {'row': 'kd_long', 'of': 'kd'}, 'winner': 'kd_long', 'rows': rows}
    record |= {'alone': 'alone_long', 'scores': {**RECORD['scores'], 'alone_long': {'7': 45.0}, 'kd_long': {'7': 49.0}}}
    (tmp_path / 'race.json').write_text(json.dumps(record))
    written(tmp_path, 'kd_long', 49.0, 7.5, 'result')
    section = race_section(tmp_path, 'mIoU')
    assert section is not None
    (table,) = section.items
    assert isinstance(table, Table)
    assert ['kd_long', '2', '2.5', '–', '49.00', '7.5', 'wins'] in [list(row) for row in table.rows]
    assert section.lead[-2:] == [
        'More time bought the student alone +2.50 (at the end).',
        'The teacher bought +3.25 on top (at the end).',
    ]
