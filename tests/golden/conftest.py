"""One test per golden file and dtype, and the count at the end of the run."""

import os

import pytest

from tests.golden.files import DEFAULT, checkable, golden_dir, skipped


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if 'golden_file' in metafunc.fixturenames:
        directory = golden_dir(metafunc.config)
        files = checkable(directory)
        metafunc.parametrize('golden_file', files, ids=[f'{path.parent.name}/{path.name}' for path in files])


def _checked(reporter: pytest.TerminalReporter) -> set[str]:
    reports = reporter.getreports('passed') + reporter.getreports('failed')
    return {value for report in reports for key, value in report.user_properties if key == 'golden_file'}


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin('terminalreporter')
    option = session.config.option
    in_ci = os.environ.get('CI') == 'true' and not option.collectonly and option.markexpr != 'soak'
    if in_ci and DEFAULT.is_dir() and not _checked(reporter):
        reporter.write_line(f'\ngolden: no file was checked although {DEFAULT} exists', red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    directory = golden_dir(config)
    terminalreporter.write_line(f'golden: {len(_checked(terminalreporter))} files checked in {directory}')
    if directory.is_dir():
        for method, reason in skipped(directory).items():
            terminalreporter.write_line(f'golden: {method} skipped: {reason}')
