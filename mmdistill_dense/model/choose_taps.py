"""Choose the taps of the distillers with ``student_tap='auto'``, before the trace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mmengine.logging import print_log

from mmdistill_dense.distillers.base import Distiller
from mmdistill_dense.networks.discover import Found, discover, discover_student
from mmdistill_dense.networks.pair_taps import nothing_to_pair, pair_taps
from mmdistill_dense.networks.taps import AUTO_LAST
from mmdistill_dense.networks.teacher_plan import TeacherOption
from mmdistill_dense.utils.protocols import Network


def choose_taps(
    network: Network,
    distillers: Mapping[str, Distiller],
    teachers: Mapping[str, TeacherOption],
    size: tuple[int, int] | None,
) -> None:
    """Give each distiller with ``student_tap='auto'`` its taps, and log them; ``'auto[-1]'`` gets the last pair.

    Args:
        network: The built student; it stays as it is.
        distillers: By name; those with named taps stay as they are.
        teachers: The teacher of each distiller.
        size: Height and width of the training crop; ``None`` means 512 x 512.
    """
    student: Found | None = None
    found: dict[str, Found] = {}
    for name, distiller in distillers.items():
        if not distiller.auto:
            continue
        teacher = teachers[name]
        student = student or discover_student(network, size)
        if teacher.name not in found:
            found[teacher.name] = discover(teacher.build, size)
        chosen = pair_taps(student, found[teacher.name])
        key = f'model.distillers.{name}'
        if not chosen.pairs:
            raise nothing_to_pair(key, student, found[teacher.name], chosen)
        if distiller.auto == AUTO_LAST:
            chosen = replace(chosen, pairs=chosen.pairs[-1:])
        distiller.choose_taps([(pair.student.tap, pair.teacher.tap) for pair in chosen.pairs])
        print_log(f'{key}.student_tap={distiller.auto!r} compares {chosen}', 'current')
