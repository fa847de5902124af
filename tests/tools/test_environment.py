"""What the audit of the dependencies makes of a report, and of none."""

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
