"""Options and fixtures shared by all tests."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        '--golden-dir',
        metavar='DIR',
        help='folder with one folder of golden vectors per method; default ../shared/golden, if there',
    )
