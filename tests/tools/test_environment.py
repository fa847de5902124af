"""What the audit of the dependencies makes of a report, and of none."""

import subprocess
from types import SimpleNamespace
from unittest import mock

import pytest

from tools import audit

HOLE = dict(id='PYSEC-1', aliases=['CVE-2'], fix_versions=['2.0'])
PACKAGES = dict(name='a', version='1.0', vulns=[HOLE]), dict(name='b', version='1.0', vulns=[])
REPORT = dict(dependencies=[*PACKAGES, dict(name='c', skip_reason='not on PyPI')])


def test_a_report_is_judged_by_what_is_accepted():
    clean, unknown = (dict(dependencies=[dependency]) for dependency in REPORT['dependencies'][1:])
    for report, accepted, failed, line_number, words in (
        (REPORT, {}, True, 0, 'a 1.0 PYSEC-1 NOT ACCEPTED, fixed in 2.0'),
        (REPORT, {}, True, -1, '2 packages looked up, 1 unknown to the index; failed'),
        (REPORT, {'PYSEC-1': 'we do not call it'}, False, 0, 'accepted: we do not call it'),
        (REPORT, {'CVE-2': 'we do not call it'}, False, 0, 'accepted: we do not call it'),
        (clean, {'CVE-2': 'why'}, False, 0, 'CVE-2 is accepted but no longer found'),
        (unknown, {}, False, 0, 'skipped, the index knows none of the 1 packages'),
    ):
        lines, bad = audit.judge(report, accepted)
        assert bad == failed and words in lines[line_number], (lines, words)
        assert bad or report is unknown or lines[-1].endswith('ok')


@pytest.mark.parametrize('answer', [
    dict(return_value=SimpleNamespace(stdout='', stderr='a\nConnection refused\n')),
    dict(side_effect=subprocess.TimeoutExpired('uv', 1)), dict(side_effect=FileNotFoundError('uv')),
], ids=['offline', 'slow', 'no uv'])  # fmt: skip
def test_an_unreachable_index_passes(answer, monkeypatch, capsys):
    monkeypatch.setattr(subprocess, 'run', mock.Mock(**answer))
    assert audit.main() == 0
    printed = capsys.readouterr().out
    assert 'skipped, the index of vulnerabilities could not be reached (' in printed
    assert 'return_value' not in answer or 'Connection refused' in printed
    monkeypatch.setattr(audit, 'ask', lambda: REPORT)
    assert audit.main() == 1


def test_acceptances_have_reasons(tmp_path):
    assert all(audit.accepted().values())
    (tmp_path / 'a.txt').write_text('# title\n\nPYSEC-1 not called\n')
    assert audit.accepted(tmp_path / 'a.txt') == {'PYSEC-1': 'not called'}
    (tmp_path / 'a.txt').write_text('PYSEC-1\n')
    with pytest.raises(ValueError, match='PYSEC-1 has no reason'):
        audit.accepted(tmp_path / 'a.txt')
