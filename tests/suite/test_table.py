"""The table on results that were made up, every number of it checked by hand; and the statistics below it."""

import csv
import io
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from mmdistill_dense.apps.suite import plan
from mmdistill_dense.apps.suite.definition import Definition
from mmdistill_dense.apps.suite.rows import Gain, SuiteTable, collect, holm, make_rows, paired_gain, summarise
from mmdistill_dense.apps.suite.table import BELOW, as_markdown, gains_png, scores_as_csv, write_table
from mmdistill_dense.utils.files import read_json, write_json
from tests.suite import made_up

KD = {0: 43.0, 1: 43.5, 2: 45.5}


@pytest.fixture(autouse=True)
def _quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real ones, which take a second for a table, are tested beside ``plan``."""
    monkeypatch.setattr(plan, 'hash_of', made_up.hash_of)


@pytest.fixture
def suite(tmp_path: Path) -> Definition:
    """Control and kd whole, heavy without its first seed."""
    suite = made_up.definition(tmp_path)
    made_up.finish(suite, 'control', made_up.CONTROL)
    made_up.finish(suite, 'kd', KD)
    made_up.finish(suite, 'heavy', {1: 40.0, 2: 40.1})
    return suite


def lines_of(text: str, first: str) -> list[list[str]]:
    """The cells of the lines of Markdown whose first cell is given."""
    found = [line.strip('|').split(' | ') for line in text.splitlines() if line.startswith(f'| {first} |')]
    return [[cell.strip() for cell in line] for line in found]


def test_scores_gains_and_intervals_are_written_where_they_are_asked_for_and_twice_the_same(
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
    for name in ('table.md', 'scores.csv', 'gains.png'):
        assert (suite.out / name).read_bytes() == (tmp_path / 'elsewhere' / name).read_bytes() != b''


def test_further_test_sets_have_a_table_of_their_own(tmp_path: Path) -> None:
    suite = made_up.definition(tmp_path, 'test_sets: {rain: {seed: 1}, new: {}}\n')
    for name, score, added in (('control', 40.0, 0.0), ('kd', 42.0, -1.5), ('heavy', 43.0, None)):
        made_up.finish(suite, name, dict.fromkeys(range(3), score))
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


def test_a_row_with_missing_runs_says_so_and_pairs_are_counted_where_they_are_fewer(suite: Definition) -> None:
    """heavy: losses 1 and 2.4; mean -1.7, sd 0.98995, times 12.7062 / sqrt 2 = 8.8943; a loser is shown, not bold."""
    text = as_markdown(collect(suite))
    main, seeds = lines_of(text, 'heavy')
    assert main[1:4] == ['2 of 3', '40.05 ± 0.07', '-1.70 [-10.59, +7.19]']
    assert seeds[1:] == ['missing', '40.00 (-1.00)', '40.10 (-2.40)']
    assert 'Missing: heavy seed 0.' in text
    (suite.out / 'runs' / 'control' / 'seed2' / 'result.json').unlink()
    text = as_markdown(collect(suite))
    assert lines_of(text, 'kd')[0][1:4] == ['3', '44.00 ± 1.32', '+2.75 [-0.43, +5.93], 2 pairs']
    assert lines_of(text, 'heavy')[0][3] == '-1.00, 1 pair'
    assert lines_of(text, 'heavy')[1][3] == '40.10'


def test_another_metric_scores_finished_runs_anew_and_a_result_of_another_config_is_refused(suite: Definition) -> None:
    assert collect(replace(suite, metric='aAcc')).row('kd').scores == {0: 80.0, 1: 80.0, 2: 80.0}
    assert read_json(suite.out / 'runs/kd/seed0/result.json')['metric'] == 'aAcc'
    assert collect(suite).row('kd').scores != {0: 80.0, 1: 80.0, 2: 80.0}
    with pytest.raises(KeyError, match="metric='mDice' is not in the result of the test: mIoU, aAcc"):
        collect(replace(suite, metric='mDice'))
    made_up.finish(suite, 'kd', {1: 43.5}, config_hash='0123456789abcdef')
    with pytest.raises(ValueError, match='kd seed 1: .*was made with another config than the definition gives'):
        collect(suite)


def test_an_empty_suite_has_its_rows(tmp_path: Path) -> None:
    alone = made_up.DEFINITION.replace('heavy: {{method: kd, options: {{loss_weight: 5}}}}', 'cwd: {{}}')
    empty = made_up.definition(tmp_path, 'teacher: toy_seg\n', alone)
    text = as_markdown(collect(empty))
    assert not any(word in text for word in ('Rows:', 'Batch:', 'only labelled')), 'nothing to say'
    assert [line[2] for line in lines_of(text, 'kd')] == ['not run', 'missing']
    assert lines_of(text, 'teacher')[0][1:4] == ['–', 'not tested', '–']
    made_up.finish(empty, 'teacher', {0: 53.5})
    assert lines_of(as_markdown(collect(empty)), 'teacher')[0][1:4] == ['1', '53.50', '–']


def test_losers_are_told(suite: Definition) -> None:
    """A clear loss is as bold as a gain, and a diverged run is no missing one."""
    for scores, cells in (
        ({0: 30.0, 1: 31.1, 2: 32.4}, ['3', '31.17 ± 1.20', '**-10.00** [-10.25, -9.75]']),
        ({0: math.nan}, ['3', 'nan ± nan', '+nan [+nan, +nan]']),
    ):
        made_up.finish(suite, 'heavy', scores)
        assert lines_of(as_markdown(collect(suite)), 'heavy')[0][1:4] == cells


def test_the_footer_names_what_the_rows_were_made_of_and_tells_versions_and_teachers_apart(suite: Definition) -> None:
    text = as_markdown(collect(suite))
    hashes = {run.name: plan.hash_of(suite, run) for run in plan.runs(suite)}
    assert '; '.join(f'{name} {value}' for name, value in hashes.items()) in text
    assert 'Rows: heavy = kd with `loss_weight=5`' in text
    assert 'Teacher: `mmdistill_dense::x.py`, iter_9.pth, sha256 abababababab…, 9 of 10 tensors\n' in text
    assert 'Versions: torch 2.0, mmengine 1.0\n' in text
    assert f'`mmdistill suite run {suite.path}`' in text
    receipts = {'a': made_up.RECEIPT, 'b': {**made_up.RECEIPT, 'file': None}}
    made_up.finish(suite, 'heavy', {1: 40.0, 2: 40.1}, versions={'torch': '2.1'}, teacher=receipts)
    text = as_markdown(collect(suite))
    assert 'Versions: torch 2.0, mmengine 1.0 (control, kd); torch 2.1 (heavy)' in text
    assert 'b: random weights of mmdistill_dense::x.py (heavy)' in text
    assert 'Local code' not in text and 'no seed reaches' not in text
    for seed, digits in ((1, 'aa11'), (2, 'bb22')):
        made_up.finish(suite, 'heavy', {seed: 40.0}, code={'my_loss.py': digits}, unseeded=['Noise.transform'])
    text = as_markdown(collect(suite))
    assert 'no seed reaches, so a repeated run gives others: Noise.transform\n' in text
    assert 'Local code, with digits of its sha256: my_loss.py aa11 (heavy); my_loss.py bb22 (heavy)' in text


def test_scores_have_every_digit_and_nothing_that_is_timed(suite: Definition) -> None:
    before = scores_as_csv(collect(suite))
    made_up.finish(suite, 'kd', {1: 43.5}, seconds_per_iteration=9.0, minutes=7.0, restarts=3)
    assert scores_as_csv(collect(suite)) == before
    made_up.finish(suite, 'kd', {1: 100 / 3})
    lines = list(csv.DictReader(io.StringIO(scores_as_csv(collect(suite)))))
    (line,) = [line for line in lines if (line['name'], line['seed']) == ('kd', '1')]
    assert (float(line['score']), float(line['gain'])) == (100 / 3, 100 / 3 - 41.0)
    assert line['test/aAcc'] == '80.0' and line['config_hash'] == plan.hash_of(suite, plan.runs(suite)[1])


def test_runs_of_different_numbers_of_processes_make_no_table(suite: Definition) -> None:
    for name, scores in {'control': made_up.CONTROL, 'kd': KD, 'heavy': {1: 40.0, 2: 40.1}}.items():
        made_up.finish(suite, name, scores, processes=2)
    assert 'Batch: 2 process(es) with 8 pictures each' in as_markdown(collect(suite))
    made_up.finish(suite, 'heavy', {1: 40.0}, processes=2, data={'val': 'a'})
    made_up.finish(suite, 'kd', {2: 45.5}, processes=2, data={'val': 'b'})
    with pytest.raises(ValueError, match=r'kd seed 2 and heavy seed 1: label files were changed between these runs'):
        collect(suite)
    for name, seed, stamp in (('heavy', 1, 'a'), ('kd', 2, 'b')):
        made_up.finish(suite, name, {seed: 40.0}, processes=2, data={'test_sets.rain': stamp})
    collect(suite)  # names no such set
    suite = replace(suite, test_sets={'rain': {}})
    with pytest.raises(ValueError, match=r'heavy seed 1: test_sets.rain or its label files were changed between'):
        collect(suite)
    made_up.finish(suite, 'kd', {2: 45.5}, processes=2)
    made_up.finish(suite, 'kd', {1: 43.5}, processes=8)
    with pytest.raises(ValueError, match=r'different numbers of processes.*control, kd, heavy: 2; kd: 8'):
        collect(suite)


# The picture of gains, read back from its artists and pixels

GAINS = {'kd': [3.0, 2.5, 3.0], 'heavy': [-1.0]}


def test_seeds_means_and_intervals_are_drawn_in_the_line_of_their_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, figures = made_up.definition(tmp_path), list[Figure]()
    scores = {'control': made_up.CONTROL, 'teacher': {0: 53.0}}
    for name, gains in GAINS.items():
        scores[name] = {seed: made_up.CONTROL[seed] + gain for seed, gain in enumerate(gains)}
    results = {
        name: {seed: {'score': score, 'config_hash': 'x'} for seed, score in found.items()}
        for name, found in scores.items()
    }
    save, colours = Figure.savefig, []
    monkeypatch.setattr(Figure, 'savefig', lambda self, *args, **kw: (figures.append(self), save(self, *args, **kw))[1])
    for found in (results, {name: {} for name in results}):
        table = SuiteTable(suite, make_rows(found, suite.seeds, 'control'))
        picture = cv2.imdecode(np.frombuffer(gains_png(table), np.uint8), cv2.IMREAD_COLOR)
        colours.append(len(np.unique(picture.reshape(-1, 3), axis=0)))
    assert colours[0] > colours[1] > 10, 'a picture even of nothing'
    (axes,) = figures[0].axes
    points = {(line.get_label(), *np.round(point, 9)) for line in axes.lines for point in line.get_xydata()}
    for place, gains in enumerate(GAINS.values()):
        assert {('one seed', gain, place + BELOW) for gain in gains} <= points
        assert ('mean', round(float(np.mean(gains)), 9), place) in points
    assert axes.lines[0].get_xdata() == [0, 0], 'the line of no gain'
    assert [label.get_text() for label in axes.get_yticklabels()] == ['kd (n = 3)', 'heavy (n = 1)']
    assert axes.get_ylim() == (1.6, -0.6) and tuple(figures[0].get_size_inches()) == (8, 2.34), 'the first on top'
    (bar,) = axes.containers
    (segment,) = bar.lines[2][0].get_segments()
    np.testing.assert_allclose(segment, [[2.1162, 0], [3.5505, 0]], atol=1e-4)
    assert axes.get_title(loc='left') == 'Made up\nstudent alone 41.17 ± 1.26 (n = 3), teacher 53.00'
    legend = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert legend == ['one seed', 'mean', '95% interval']


def test_gains_are_over_the_control_that_is_best_on_val(tmp_path: Path) -> None:
    text = made_up.DEFINITION.replace('heavy: {{method: kd, options: {{loss_weight: 5}}}}', 'control_x2: {{rate: 2}}')
    suite = made_up.definition(tmp_path, text=text)
    made_up.finish(suite, 'control', made_up.CONTROL)
    made_up.finish(suite, 'kd', KD)
    assert collect(suite).control == 'control', 'the other has no run yet'
    metrics = {'val': {'mIoU': 99.0}, 'test': {'mIoU': 40.0}}
    made_up.finish(suite, 'control_x2', {0: 42.0}, metrics=metrics)
    assert collect(suite).control == 'control', 'most of its seeds are missing'
    made_up.finish(suite, 'control_x2', {0: 42.0, 1: 42.0}, metrics=metrics)
    table = collect(suite)
    assert table.control == 'control_x2', 'by the seeds that both have: a page that is written meanwhile stays as it is'
    assert table.row('kd').gain.each.keys() == {0, 1}
    made_up.finish(suite, 'control_x2', {0: 40.0, 1: 40.0, 2: 40.0}, metrics=metrics)
    table = collect(suite)
    assert table.control == 'control_x2' and table.row('kd').gain.each == {0: 3.0, 1: 3.5, 2: 5.5}
    assert table.row('control_x2').gain is table.row('control').gain is None
    told = as_markdown(table)
    assert 'mean of (method - control_x2, the best control on val) at' in told and 'kd (+3.00)' not in told
    made_up.finish(suite, 'kd', {0: 43.0}, test_is_val=True)
    assert 'the best control on val, the pictures of the gain too)' in as_markdown(collect(suite))


# Statistics against tables, integration and formulas written out


def gains_of(scores: dict[str, dict[int, float]], control: dict[int, float]) -> dict[str, Gain | None]:
    return holm({name: paired_gain(own, control) for name, own in scores.items()})


TABLE = {1: 12.70620474, 2: 4.30265273, 3: 3.18244631, 4: 2.77644511, 5: 2.57058184, 9: 2.26215716, 30: 2.04227246}


def test_intervals_are_those_of_the_printed_table_and_p_says_what_they_say() -> None:
    """One pair with a difference of 1, the others with none: standard error 1 / n."""
    for freedom, expected in TABLE.items():
        scores = {seed: float(seed == 0) for seed in range(freedom + 1)}
        gain = paired_gain(scores, dict.fromkeys(scores, 0.0))
        assert gain.half * gain.n == pytest.approx(expected, abs=1e-8)
        assert gain.low == pytest.approx(gain.mean - gain.half)
    for shift in (0.0, 1.0, 1.3, 1.4, 2.0, -5.0):
        gain = paired_gain({0: 1.29 + shift, 1: 2.61 + shift, 2: 0.41 + shift}, dict.fromkeys(range(3), 0.0))
        assert gain.told_apart == (gain.low * gain.high > 0) == (gain.p < 0.05)


@pytest.mark.parametrize('pairs', [2, 3, 7, 8, 41])
def test_the_density_beyond_the_mean_integrates_to_its_p(pairs: int) -> None:
    nodes, weights = np.polynomial.legendre.leggauss(200)
    gain = paired_gain({seed: 40 + math.sin(seed) for seed in range(pairs)}, dict.fromkeys(range(pairs), 39.5))
    freedom, bound = pairs - 1, gain.mean / (gain.sd / math.sqrt(pairs))
    points = bound * (nodes + 1) / 2
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    density = scale * (1 + points**2 / freedom) ** (-(freedom + 1) / 2)
    assert 1 - bound * (weights * density).sum() == pytest.approx(gain.p, abs=1e-10)


def test_p_values_are_holms() -> None:
    """Sorted p: the smallest times 4, the next times 3, and so on; none below the one before, none above 1."""
    control = {0: 0.0, 1: 0.0, 2: 0.0}
    scores = {name: {0: t - 1, 1: t, 2: t + 1} for name, t in (('b', 3.0), ('a', 9.0), ('d', 0.1), ('c', 2.9))}
    alone = {name: paired_gain(own, control).p for name, own in scores.items()}
    gains = gains_of({**scores, 'none': {7: 1.0}, 'one': {0: 1.0}}, control)
    assert gains['none'] is None and gains['one'].p is None
    found = {name: gains[name].p for name in alone}
    holm = {'a': 4 * alone['a'], 'b': 3 * alone['b'], 'c': 3 * alone['b'], 'd': alone['d']}
    assert 2 * alone['c'] < 3 * alone['b'] and found == pytest.approx(holm)
    assert [name for name in gains if gains[name] and gains[name].told_apart] == ['a']
    many = gains_of({str(row): scores['d'] for row in range(9)}, control)
    assert {gain.p for gain in many.values()} == {1.0}


def test_equal_differences_and_a_diverged_run_say_nothing() -> None:
    """Box AP is rounded to 0.1, so two seeds often differ by the same; that is no proof."""
    control = {0: 29.8, 1: 31.0}
    for difference in (0.0, 0.3, -0.5):
        gain = paired_gain({seed: score + difference for seed, score in control.items()}, control)
        assert gain.mean == pytest.approx(difference)
        assert gain.low is gain.high is gain.p is None and not gain.told_apart
    gain = paired_gain({0: math.nan, 1: 41.0}, {0: 40.0, 1: 40.0})
    assert gain.n == 2 and math.isnan(gain.mean) and not gain.told_apart
    assert gains_of({'kd': {0: math.nan, 1: 41.0}}, {0: 40.0, 1: 40.0})['kd'].p == 1


def test_a_summary_is_of_a_sample_and_only_seeds_of_both_make_pairs() -> None:
    values = [39.7, 38.8, 38.8, 41.25]
    summary = summarise(values)
    assert (summary.n, summary.mean) == (4, pytest.approx(np.mean(values)))
    assert summary.sd == pytest.approx(np.std(values, ddof=1))
    assert summarise([]) is None and summarise([3.0]).sd is None
    gain = paired_gain({2: 42.0, 0: 41.0, 7: 99.0}, {0: 40.0, 1: 1.0, 2: 40.0})
    assert list(gain.each) == [0, 2] and gain.n == 2 and gain.mean == 1.5
    assert paired_gain({1: 41.0}, {2: 40.0}) is None
    gain = paired_gain({0: 41.0}, {0: 40.0})
    assert (gain.n, gain.mean, gain.low, gain.high, gain.half) == (1, 1.0, None, None, None)
    assert not gain.told_apart
