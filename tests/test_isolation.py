"""No test sees what a user keeps at home."""

import os
import pwd
from pathlib import Path

from tests.isolation import OWN, ROOT, USERS


def test_a_test_begins_in_an_empty_folder_with_an_empty_home() -> None:
    assert not Path.cwd().is_relative_to(ROOT) and not list(Path.cwd().iterdir())
    assert not list(Path.home().iterdir())
    assert Path.home() != Path(pwd.getpwuid(os.getuid()).pw_dir)
    assert not set(USERS) & set(os.environ)
    Path('left').touch()


def test_what_another_test_left_is_gone() -> None:
    assert not list(Path.cwd().iterdir())


def test_the_projects_own_files_are_there() -> None:
    assert all((ROOT / name).exists() for name in OWN - {'.git'})  # a release has none
