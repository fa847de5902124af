"""One test per golden file and dtype."""

import pytest

from tests.golden.files import checkable, golden_dir


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if 'golden_file' in metafunc.fixturenames:
        directory = golden_dir(metafunc.config)
        files = checkable(directory)
        metafunc.parametrize('golden_file', files, ids=[f'{path.parent.name}/{path.name}' for path in files])
