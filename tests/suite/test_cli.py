"""The command as a person uses it."""

import json
import re
import time
from pathlib import Path

import pytest

from mmdistill_dense.__main__ import Parser, fill, main
from mmdistill_dense.apps.recipes import compose
from mmdistill_dense.apps.suite import actions, plan
from mmdistill_dense.apps.suite.definition import load_suite
from mmdistill_dense.apps.suite.pool import job_words
from tests.suite import tiny


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('COLUMNS', '200')


def test_list_without_a_definition_shows_every_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['suite', 'list']) == 0
    printed = capsys.readouterr().out
    assert all(f' {method} ' in printed for method in compose.methods())
    with pytest.raises(SystemExit):
        main(['suite', 'run', str(tiny.write(Path())), '--jobs', '0'])
    assert "--jobs: must be 1 or more, got '0'" in capsys.readouterr().err


def test_list_tells_what_runs(capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny.write(Path(), methods={'kd': {}, 'cwd': {}, 'mgd': {}, 'at': {}}, seeds=[0])
    definition = load_suite(path)
    runs = {run.title: run for run in plan.runs(definition)}
    tiny.write_result(runs['at seed 0'].folder, 12.25, config_hash=plan.hash_of(definition, runs['at seed 0']))
    state = {'phase': 'training', 'iteration': 21, 'iterations': 300, 'host': 'node7'}
    texts = {
        'control seed 0': state,
        'kd seed 0': {**state, 'failed': 'ended with code 3'},
        'cwd seed 0': {**state, 'time': time.time() - 600},
    }
    for title, content in texts.items():
        runs[title].folder.mkdir(parents=True)
        (runs[title].folder / 'state.json').write_text(json.dumps(content))
    runs['mgd seed 0'].folder.mkdir(parents=True)
    (runs['mgd seed 0'].folder / 'state.json').touch()  # as a power cut leaves it
    with tiny.held(runs['cwd seed 0'].folder):
        assert main(['suite', 'list', str(path)]) == 0
    text = ' '.join(capsys.readouterr().out.replace('│', ' ').split())
    assert 'control seed 0 stopped at 21/300' in text
    assert 'kd seed 0 FAILED at 21/300: ended with code 3' in text
    assert 'cwd seed 0 training, 21/300 on node7, no word for 10 min' in text
    assert 'mgd seed 0 waits' in text and 'others that fit: afdcd, ' in text
    assert re.search(r'at seed 0 finished.* 12\.25', text)


@pytest.mark.parametrize(('words', 'output'), [
    (['run', '{file}'], 'ERROR    tiny.yaml: methods.kdd: '),
    (['table', 'none.yaml'], "'none.yaml': no such definition"),
    (['slurm', 'good/tiny.yaml'], 'suite slurm has left: sh examples/slurm_array.sh DEFINITION PROCESSES'),
    (['job', 'good/tiny.yaml', 'kd'], 'kd has no run with --seed None, but kd seed 0'),
])  # fmt: skip
def test_mistakes_end_with_one_line(
    words: list[str], output: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('LOCAL_RANK', '0')
    path, good = tiny.write(Path(), methods={'kdd': {}}), Path('good')
    good.mkdir()
    tiny.write(good)
    assert main(['suite', *(word.format(file=path) for word in words)]) == 2
    assert output in capsys.readouterr().err and not Path('out/runs').exists()


def test_every_run_is_known_by_its_command_line() -> None:
    definition = load_suite(tiny.write(Path()))
    for run in plan.runs(definition):
        args = fill(Parser(), 'suite').parse_args(job_words(definition.path, run))
        assert actions.find_run(definition, args.name, args.seed) == run
    assert actions.find_run(definition, 'teacher', None).name == 'teacher'
    with pytest.raises(ValueError, match="row 'kdd': unknown. Close: kd"):
        actions.find_run(definition, 'kdd', 0)
