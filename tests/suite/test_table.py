"""The table on results that were made up, every number of it checked by hand."""

import csv
import hashlib
import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmdistill_dense.apps.suite import plan
from mmdistill_dense.apps.suite.definition import Definition, load_suite
from mmdistill_dense.apps.suite.table import as_markdown, collect, scores_as_csv, unlabelled, write_table
from mmdistill_dense.utils.files import read_json, write_json

RECEIPT = dict(config='mmdistill_dense::x.py', file='iter_9.pth', sha256='ab' * 32, matched=9, total=10, ignored=1)
CONTROL = {0: 40.0, 1: 41.0, 2: 42.5}
KD = {0: 43.0, 1: 43.5, 2: 45.5}
DEFINITION = """
title: Made up
out: {out}
control: toy_seg
methods:
  kd: {{}}
  heavy: {{method: kd, options: {{loss_weight: 5}}}}
seeds: [0, 1, 2]
"""


def definition(folder: Path, more: str = '', text: str = DEFINITION) -> Definition:
    """Write and read a definition of toy_seg with two methods and three seeds."""
    path = folder / 'suite.yaml'
    path.write_text(text.format(out=folder / 'out') + more)
    return load_suite(path)


def hash_of(suite: Definition, run: plan.Run, *_: Any) -> str:
    """A stand-in for ``plan.hash_of`` that reads no configs."""
    method = suite.methods.get(run.name)
    text = repr((suite.control.stem, dict(suite.options), method and dict(method.options), run.name))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_results_of(suite: Definition, name: str, scores: dict[int, float], **changes: Any) -> None:
    for run in plan.runs(suite):
        if run.name == name and run.seed in scores:
            write_json(run.folder / 'result.json', {**result(suite, run, scores[run.seed]), **changes})


def result(suite: Definition, run: plan.Run, score: float) -> dict[str, Any]:
    """What a finished run leaves, as ``suite.job`` writes it."""
    made = dict(name=run.name, seed=run.seed, config_hash=plan.hash_of(suite, run), shares={})
    made['teacher'] = None if run.name in ('control', 'teacher') else RECEIPT
    on = dict(versions={'torch': '2.0', 'mmengine': '1.0'}, device='CPU x86_64', threads=1, restarts=0)
    scores = {'test': {'mIoU': score, 'aAcc': 80.0}, 'val': {'mIoU': score + 1}}
    words = dict(metrics=scores, test_is_val=False, score=score, metric=suite.metric, checkpoint='iter_9.pth')
    return {**made, **on, **words, 'iterations': 9, 'seconds_per_iteration': 0.25, 'minutes': 1.0}


def lines_of(text: str, first: str) -> list[list[str]]:
    """The cells of the lines of Markdown whose first cell is given."""
    actual = [line.strip('|').split(' | ') for line in text.splitlines() if line.startswith(f'| {first} |')]
    return [[cell.strip() for cell in line] for line in actual]


@pytest.fixture(autouse=True)
def _quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real ones, which take a second for a table, are tested beside ``plan``."""
    monkeypatch.setattr(plan, 'hash_of', hash_of)


@pytest.fixture
def suite(tmp_path: Path) -> Definition:
    """Control and kd whole, heavy without its first seed."""
    suite = definition(tmp_path)
    write_results_of(suite, 'control', CONTROL)
    write_results_of(suite, 'kd', KD)
    write_results_of(suite, 'heavy', {1: 40.0, 2: 40.1})
    return suite


def test_the_table_is_written_twice_alike(
    suite: Definition, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """kd: gains 3, 2.5, 3; mean 2.8333, sd 0.28868, times 4.30265 / sqrt 3 = 0.71711."""
    text = as_markdown(collect(suite))
    main, seeds = lines_of(text, 'kd')
    assert main[1:4] == ['3', '44.00 ± 1.32', '**+2.83** [+2.12, +3.55]']
    assert seeds[1:] == ['43.00 (+3.00)', '43.50 (+2.50)', '45.50 (+3.00)']
    assert lines_of(text, 'student alone')[0][1:4] == ['3', '41.17 ± 1.26', '–']
    assert 'mean of (method - student alone) at the same seed' in text, 'of one control nothing is chosen'
    write_table(suite)
    assert '| **+2.83** [+2.12, +3.55] |' in capsys.readouterr().out
    write_table(suite, tmp_path / 'elsewhere')
    for name in ('table.md', 'scores.csv'):
        assert (suite.out / name).read_bytes() == (tmp_path / 'elsewhere' / name).read_bytes() != b''


def test_further_test_sets_have_a_table_of_their_own(tmp_path: Path) -> None:
    suite = definition(tmp_path, 'test_sets: {rain: {seed: 1}, new: {}}\n')
    for name, score, added in (('control', 40.0, 0.0), ('kd', 42.0, -1.5), ('heavy', 43.0, None)):
        write_results_of(suite, name, dict.fromkeys(range(3), score))
        for run in plan.runs(suite):
            if run.name == name and added is not None:
                result = read_json(run.folder / 'result.json')
                result['metrics']['rain'] = {'mIoU': 30.0 + run.seed + added + (run.seed == 2) * bool(added) / 2}
                write_json(run.folder / 'result.json', result)
    table = collect(suite)
    text = as_markdown(table)
    assert lines_of(text, 'kd')[-1][1:] == ['29.67 ± 1.26 **-1.33** [-2.05, -0.62]', 'not run –']
    assert lines_of(text, 'student alone')[-1][1:] == ['31.00 ± 1.00 –', 'not run –']
    assert lines_of(text, 'heavy')[-1][1] == 'not run –', 'it finished before the set was named'
    assert '## Other test sets' in text and 'rain/mIoU' in scores_as_csv(table)


def test_a_row_with_missing_runs_says_so(suite: Definition) -> None:
    """heavy: losses 1 and 2.4; mean -1.7, sd 0.98995, times 12.7062 / sqrt 2 = 8.8943; a loser is shown, not bold."""
    text = as_markdown(collect(suite))
    main, seeds = lines_of(text, 'heavy')
    assert main[1:4] == ['2 of 3', '40.05 ± 0.07', '-1.70 [-10.59, +7.19]']
    assert seeds[1:] == ['missing', '40.00 (-1.00)', '40.10 (-2.40)']
    assert 'Without one: heavy seed 0 (not begun).' in text
    write_json(suite.out / 'runs/heavy/seed0/state.json', {'failed': 'out of memory'})
    assert 'Without one: heavy seed 0 (failed: out of memory).' in as_markdown(collect(suite))
    (suite.out / 'runs' / 'control' / 'seed2' / 'result.json').unlink()
    text = as_markdown(collect(suite))
    assert lines_of(text, 'kd')[0][1:4] == ['3', '44.00 ± 1.32', '+2.75 [-0.43, +5.93], 2 pairs']
    assert lines_of(text, 'heavy')[0][3] == '-1.00, 1 pair'
    assert lines_of(text, 'heavy')[1][3] == '40.10'


def test_another_metric_scores_finished_runs_anew(suite: Definition) -> None:
    assert collect(replace(suite, metric='aAcc')).verdict.row('kd').scores == {0: 80.0, 1: 80.0, 2: 80.0}
    assert read_json(suite.out / 'runs/kd/seed0/result.json')['metric'] == 'aAcc'
    assert collect(suite).verdict.row('kd').scores != {0: 80.0, 1: 80.0, 2: 80.0}
    with pytest.raises(KeyError, match="metric='mDice' is not in the result of the test: mIoU, aAcc"):
        collect(replace(suite, metric='mDice'))
    write_results_of(suite, 'kd', {1: 43.5}, config_hash='0123456789abcdef')
    with pytest.raises(ValueError, match='kd seed 1: .*was made with another config than the definition gives'):
        collect(suite)


def test_an_empty_suite_has_its_rows(tmp_path: Path) -> None:
    single = DEFINITION.replace('heavy: {{method: kd, options: {{loss_weight: 5}}}}', 'cwd: {{}}')
    empty = definition(tmp_path, 'teacher: toy_seg\n', single)
    text = as_markdown(collect(empty))
    assert not any(word in text for word in ('Rows:', 'Batch:', 'only labelled')), 'nothing to say'
    assert [line[2] for line in lines_of(text, 'kd')] == ['not run', 'missing']
    assert lines_of(text, 'teacher')[0][1:4] == ['–', 'not tested', '–']
    write_results_of(empty, 'teacher', {0: 53.5})
    assert lines_of(as_markdown(collect(empty)), 'teacher')[0][1:4] == ['1', '53.50', '–']


def test_losers_are_told(suite: Definition) -> None:
    """A clear loss is as bold as a gain, and a diverged run has no score and is named."""
    for scores, cells in (
        ({0: 30.0, 1: 31.1, 2: 32.4}, ['3', '31.17 ± 1.20', '**-10.00** [-10.25, -9.75]']),
        ({0: math.nan}, ['2 of 3', '31.75 ± 0.92', '**-10.00** [-11.27, -8.73]']),
    ):
        write_results_of(suite, 'heavy', scores)
        assert lines_of(text := as_markdown(collect(suite)), 'heavy')[0][1:4] == cells
    assert 'Without one: heavy seed 0 (diverged).' in text and lines_of(text, 'heavy')[1][1] == 'diverged'


def test_the_footer_names_what_rows_were_made_of(suite: Definition) -> None:
    text = as_markdown(collect(suite))
    hashes = {run.name: plan.hash_of(suite, run) for run in plan.runs(suite)}
    assert '; '.join(f'{name} {value}' for name, value in hashes.items()) in text
    assert 'Rows: heavy = kd with `loss_weight=5`' in text
    assert 'Teacher: `mmdistill_dense::x.py`, iter_9.pth, SHA-256 abababababab, 9 of 10 tensors, 1 left out\n' in text
    assert 'Versions: torch 2.0, mmengine 1.0\n' in text
    assert f'`mmdistill suite run {suite.path}`' in text
    receipts = {'a': RECEIPT, 'b': {**RECEIPT, 'file': None}}
    write_results_of(suite, 'heavy', {1: 40.0, 2: 40.1}, versions={'torch': '2.1'}, teacher=receipts)
    text = as_markdown(collect(suite))
    assert 'Versions: torch 2.0, mmengine 1.0 (control, kd); torch 2.1 (heavy)' in text
    assert 'b: `mmdistill_dense::x.py`, random weights (heavy)' in text
    assert 'Local code' not in text and 'no seed reaches' not in text
    for seed, digits in ((1, 'aa11'), (2, 'bb22')):
        write_results_of(suite, 'heavy', {seed: 40.0}, code={'my_loss.py': digits}, unseeded=['Noise.transform'])
    text = as_markdown(collect(suite))
    assert 'no seed reaches, so a repeated run gives others: Noise.transform\n' in text
    assert 'Local code, with digits of its sha256: my_loss.py aa11 (heavy); my_loss.py bb22 (heavy)' in text


def test_pictures_without_labels_are_told() -> None:
    facts = dict(pictures=6, ratio=1, passes=2.0, names='ab' * 32)
    words = '6, 1 for each labelled one of a step, each seen 2 times (hash of the names '
    assert unlabelled({'unlabelled': facts}).startswith(words) and unlabelled({}) == ''


def test_scores_have_every_digit(suite: Definition) -> None:
    before = scores_as_csv(collect(suite))
    write_results_of(suite, 'kd', {1: 43.5}, seconds_per_iteration=9.0, minutes=7.0, restarts=3)
    assert scores_as_csv(collect(suite)) == before
    write_results_of(suite, 'kd', {1: 100 / 3})
    lines = list(csv.DictReader(io.StringIO(scores_as_csv(collect(suite)))))
    (line,) = [line for line in lines if (line['name'], line['seed']) == ('kd', '1')]
    assert (float(line['score']), float(line['gain'])) == (100 / 3, 100 / 3 - 41.0)
    assert line['test/aAcc'] == '80.0' and line['config_hash'] == plan.hash_of(suite, plan.runs(suite)[1])


def test_runs_of_different_numbers_of_processes_make_no_table(suite: Definition) -> None:
    for name, scores in {'control': CONTROL, 'kd': KD, 'heavy': {1: 40.0, 2: 40.1}}.items():
        write_results_of(suite, name, scores, processes=2)
    assert 'Batch: 2 process(es) with 8 pictures each' in as_markdown(collect(suite))
    for source, changed in (('val', 'label files'), ('start a.pth', 'files of first weights')):
        write_results_of(suite, 'heavy', {1: 40.0}, processes=2, data={source: 'a'})
        write_results_of(suite, 'kd', {2: 45.5}, processes=2, data={source: 'b'})
        with pytest.raises(ValueError, match=rf'kd seed 2 and heavy seed 1: {changed} were changed between these runs'):
            collect(suite)
    for name, seed, stamp in (('heavy', 1, 'a'), ('kd', 2, 'b')):
        write_results_of(suite, name, {seed: 40.0}, processes=2, data={'test_sets.rain': stamp})
    collect(suite)  # names no such set
    suite = replace(suite, test_sets={'rain': {}})
    with pytest.raises(ValueError, match=r'heavy seed 1: test_sets.rain or its label files were changed between'):
        collect(suite)
    write_results_of(suite, 'kd', {2: 45.5}, processes=2, teacher={**RECEIPT, 'sha256': 'cd' * 32})
    with pytest.raises(ValueError, match="kd seed 0 and kd seed 2: the teacher's weights were changed between"):
        collect(suite)
    write_results_of(suite, 'kd', {2: 45.5}, processes=2)
    write_results_of(suite, 'kd', {1: 43.5}, processes=8)
    with pytest.raises(ValueError, match=r'different numbers of processes.*control, kd, heavy: 2; kd: 8'):
        collect(suite)
