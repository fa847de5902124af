"""The taps of ``student_tap='auto'`` for the networks of a config, for ``tools/list_taps.py``."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmdistill_dense.check.tap_list import networks_of
from mmdistill_dense.config.resolve import ModelConfig
from mmdistill_dense.networks.discover import Found, discover
from mmdistill_dense.networks.input_grid import InputGrid
from mmdistill_dense.networks.pair_taps import Chosen, Pair, nothing_to_pair, pair_taps
from mmdistill_dense.networks.teacher_plan import TeacherOption
from mmdistill_dense.utils.messages import message_of
from mmdistill_dense.utils.silence import quiet


class AutoTaps:
    """What ``student_tap='auto'`` chooses between the student of a config and each of its teachers.

    A config without a teacher is paired with itself.

    Attributes:
        lines: For each teacher the pairs, one a line, and what was left out; or why nothing was found.

    Args:
        config: With a ``DistillModel`` or an ordinary model.
        size: Height and width of the picture. Defaults to those of the student's preprocessor, else 512 x 512.
    """

    def __init__(self, config: Config, size: Sequence[int] | None = None) -> None:
        self.lines: list[str] = []
        self._taps: dict[str, dict[str, None]] = {}
        try:
            (own, student, _), *teachers = networks_of(config)
            given = size or (student.model.get('data_preprocessor') or {}).get('size')
            self._size = (int(given[0]), int(given[1])) if given else None
            found = self._discover(student, trains=True)
            for title, teacher, grid in teachers:
                self._add(own, title, found, self._discover(teacher, grid))
            if not teachers:
                self._add(own, own, found, found)
        except Exception as error:  # the tree of modules is shown without
            self.lines.append(f"student_tap='auto': {message_of(error)}")

    def taps(self, title: str) -> list[str]:
        """Return the chosen taps of a network, by its title in :func:`networks_of`."""
        return list(self._taps.get(title, {}))

    def _discover(self, config: ModelConfig, grid: InputGrid | None = None, trains: bool = False) -> Found:
        with DefaultScope.overwrite_default_scope(config.scope), quiet():
            return discover(TeacherOption('model', '', config, grid=grid).build, self._size, trains)

    def _add(self, own: str, title: str, student: Found, teacher: Found) -> None:
        chosen = pair_taps(student, teacher)
        if not chosen.pairs:
            raise nothing_to_pair('model.distillers.NAME', student, teacher, chosen)
        for name, taps in (
            (own, (pair.student.tap for pair in chosen.pairs)),
            (title, (pair.teacher.tap for pair in chosen.pairs)),
        ):
            self._taps.setdefault(name, {}).update(dict.fromkeys(taps))
        self.lines += _told(title, chosen)


def _told(title: str, chosen: Chosen) -> list[str]:
    told = [f"★ student_tap='auto', {title}:", *(f'    {_arrow(pair)}' for pair in chosen.pairs)]
    return [*told, *(f'    left out: {note}' for note in chosen.notes)]


def _arrow(pair: Pair) -> str:
    return f'{pair.student}' if pair.student == pair.teacher else f'{pair.student} -> {pair.teacher}'
