"""A folder to work in, as a user without a network would, and a project."""

import shutil
from pathlib import Path

import pytest

from mmdistill_dense.apps.project import network_options as fetched_weights
from mmdistill_dense.apps.project import training_plan
from tests.project.commands import project

time_training = training_plan.time_training


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, from which no address can be reached."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fetched_weights, 'reachable', lambda host: False)
    return tmp_path


@pytest.fixture(autouse=True)
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """``new`` times no step; the test of the price takes ``time_training`` from here."""
    monkeypatch.setattr(training_plan, 'time_training', lambda config: training_plan.Price(60.0, 1.0))


@pytest.fixture(scope='module')
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp('made'))
        return project().absolute()


@pytest.fixture
def root(folder: Path, made: Path) -> Path:
    """A project as `new` writes it, in the working folder."""
    return Path(shutil.copytree(made, 'project'))
