"""How the C++ files of mmcv are divided into units."""

import importlib.util
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.test_packaging import ROOT
from tools.build_mmcv import APART, AT_THE_END, LONGEST, group, write_units


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files of different sizes, among them those with rules, in the working directory."""
    monkeypatch.chdir(tmp_path)
    names = [LONGEST, *APART, *AT_THE_END, *(f'op_{index}.cpp' for index in range(40)), 'pytorch/roi_align.cpp']
    paths = [f'./csrc/{"pytorch/" * name.startswith("cpu/")}{name}' for name in names]
    for index, path in enumerate(paths):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text('// ' + 'x' * (37 * index % 101))
    return paths


@pytest.mark.parametrize('count', [1, 4, 7])
def test_every_file_is_in_one_unit_and_the_rules_hold(sources: list[str], count: int) -> None:
    units = group(sources, count)
    assert sorted(path for unit in units for path in unit) == sorted(sources)
    assert units[0] == [f'./csrc/{LONGEST}']
    assert len(units) == 1 + max(count, len(APART))
    for unit in units:
        assert sum(path.endswith(tuple(APART)) for path in unit) <= 1
        assert not any(path.endswith(tuple(AT_THE_END)) for path in unit[:-1])


def test_a_unit_includes_its_files(sources: list[str], tmp_path: Path) -> None:
    units = [Path(path).read_text().splitlines() for path in write_units(sources, 4, tmp_path / 'units')]
    included = [line.removeprefix('#include "').removesuffix('"') for unit in units for line in unit]
    assert sorted(included) == sorted(str(Path(path).resolve()) for path in sources)


spec = importlib.util.spec_from_file_location('audit', ROOT / 'tools' / 'audit.py')
audit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(audit)

HOLE = dict(id='PYSEC-1', aliases=['CVE-2'], fix_versions=['2.0'])
REPORT = dict(
    dependencies=[
        dict(name='a', version='1.0', vulns=[HOLE]),
        dict(name='b', version='1.0', vulns=[]),
        dict(name='c', skip_reason='not on PyPI'),
    ]
)


def test_known_hole_fails_and_names_the_version_without_it():
    lines, bad = audit.judge(REPORT, {})
    assert bad and 'a 1.0 PYSEC-1 NOT ACCEPTED, fixed in 2.0' in lines[0]
    assert lines[-1].endswith('2 packages looked up, 1 unknown to the index; failed')


@pytest.mark.parametrize('name', ['PYSEC-1', 'CVE-2'])
def test_accepted_hole_passes_with_its_reason_and_one_that_is_gone_is_named(name):
    lines, bad = audit.judge(REPORT, {name: 'we do not call it'})
    assert not bad and 'accepted: we do not call it' in lines[0] and lines[-1].endswith('ok')
    lines, bad = audit.judge(dict(dependencies=[dict(name='b', version='1', vulns=[])]), {name: 'why'})
    assert not bad and f'{name} is accepted but no longer found' in lines[0]


def test_index_that_knows_nothing_is_no_clean_report():
    lines, bad = audit.judge(dict(dependencies=[dict(name='a', skip_reason='404')]), {})
    assert not bad and 'skipped, the index knows none of the 1 packages' in lines[0]


@pytest.mark.parametrize('answer', ['offline', 'slow', 'no uv'])
def test_unreachable_index_passes_with_a_line(answer, monkeypatch, capsys):
    def run(*_, **__):
        if answer == 'slow':
            raise subprocess.TimeoutExpired('uv', 1)
        if answer == 'no uv':
            raise FileNotFoundError('uv')
        return SimpleNamespace(stdout='', stderr='a\nConnection refused\n')

    monkeypatch.setattr(subprocess, 'run', run)
    assert audit.main() == 0
    printed = capsys.readouterr().out
    assert 'skipped, the index of vulnerabilities could not be reached (' in printed
    assert answer != 'offline' or 'Connection refused' in printed


def test_report_with_a_hole_ends_with_an_error(monkeypatch):
    monkeypatch.setattr(audit, 'ask', lambda: REPORT)
    assert audit.main() == 1


def test_acceptances_have_reasons(tmp_path):
    assert all(audit.accepted().values())
    (tmp_path / 'a.txt').write_text('# title\n\nPYSEC-1 not called\n')
    assert audit.accepted(tmp_path / 'a.txt') == {'PYSEC-1': 'not called'}
    (tmp_path / 'a.txt').write_text('PYSEC-1\n')
    with pytest.raises(ValueError, match='PYSEC-1 has no reason'):
        audit.accepted(tmp_path / 'a.txt')
