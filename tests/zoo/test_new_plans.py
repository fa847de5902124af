"""``new`` adapts every network of mmseg and mmdet to other classes, or says why it does not."""

from collections import defaultdict
from pathlib import Path

import pytest

from mmdistill_dense.apps.project import sides as fetched_weights
from mmdistill_dense.apps.project.sides import Side, adapt, check_detector, det_size, read_side, seg_size
from mmdistill_dense.apps.project.zoo_schedule import decide_loading, scaled_training
from mmdistill_dense.config.resolve import load_model, package_root
from mmdistill_dense.config.values import num_classes
from mmdistill_dense.utils.literals import literal

CLASSES, PICTURE, PICTURES = 3, (360, 480), 100
BROKEN = ('sort/', 'strongsort/', 'glip/odinw')  # they inherit files that do not exist, or are no configs


def families(package: str) -> dict[str, list[str]]:
    """The configs of a package by folder."""
    root, found = package_root(package) / 'configs', defaultdict(list)
    for path in sorted(root.rglob('*.py')):
        name = path.relative_to(root).as_posix()
        if '_base_' not in name and '_tta' not in name and not name.startswith(('common/', *BROKEN)):
            found[Path(name).parts[0]].append(name)
    return found


CASES = [(package, family) for package in ('mmseg', 'mmdet') for family in families(package)]


def planned(name: str) -> Side:
    side = read_side(name, '--student')
    loading = decide_loading(side, PICTURE, PICTURES, None, None)
    check_detector(side, True)
    sizes = seg_size(side.model, loading.crop, PICTURE) if side.task == 'seg' else det_size(side.model)
    adapt(side, CLASSES, sizes, True, False)
    schedule = scaled_training(side.config, name, PICTURES, loading.batch)
    for one in schedule.param_scheduler:
        assert 0 <= one.get('begin', 0) <= one.get('end', schedule.steps) <= schedule.steps, one
    return side


@pytest.mark.zoo
@pytest.mark.parametrize(('package', 'family'), CASES)
def test_every_network_is_adapted_or_refused(package: str, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetched_weights, 'reachable', lambda host: False)
    for name in families(package)[family]:
        try:
            side = planned(f'{package}::{name}')
        except ValueError as error:
            assert str(error).startswith(('--student', f'{package}::{name}: the config has no optim_wrapper')), name
            continue
        option: dict = {}
        exec(f'option = {literal(side.option)}', option)
        model = load_model(option['option'], 'student').model
        assert num_classes(model) in (CLASSES, None), name
        assert not fetched_weights.missing_of(model), name
