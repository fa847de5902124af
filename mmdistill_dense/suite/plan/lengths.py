"""The lengths of rows of equal compute: from the budget, pinned step ratios, and those in ``<out>/budget.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmdistill_dense.suite.definition.budget import TWICE, Budget
from mmdistill_dense.suite.definition.definition import Definition, Method
from mmdistill_dense.suite.plan import configs
from mmdistill_dense.suite.plan.identity import config_hash
from mmdistill_dense.suite.plan.scaling import scale_run, unit_of
from mmdistill_dense.utils.atomic import read_json


def measured_file(definition: Definition) -> Path:
    """Return the file of the measured step ratios. It is written once: the lengths of all runs follow from it."""
    return definition.out / 'budget.json'


def measured(definition: Definition) -> dict[str, Any]:
    """Return its content; empty before the measurement."""
    return read_json(measured_file(definition)) or {'rows': {}}


def price_of(definition: Definition, name: str) -> dict[str, float]:
    """Return ``ratio`` and ``extra`` of a row, pinned or measured; 1 and 0 for the student alone.

    Measured ratios have ``low`` and ``high`` too.
    """
    budget, method = _budget(definition), definition.methods.get(name)
    if method is None or not needs_price(method):
        return {'ratio': 1.0, 'extra': 0.0}
    found = dict(measured(definition)['rows'].get(name, {}).get('price', {}))
    if name in budget.ratios:
        found = {'extra': found.get('extra', 0.0), 'ratio': budget.ratios[name]}
    if name in budget.extra:
        found['extra'] = budget.extra[name]
    if 'ratio' not in found:
        raise ValueError(
            f'{definition.path}: budget: the step of {name} has not been measured: run `python tools/suite.py budget '
            f'{definition.path}`, which writes {measured_file(definition)}, or pin budget.ratios.{name}.'
        )
    return found


def needs_price(method: Method) -> bool:
    """Tell whether the length of a row depends on what its step costs."""
    return method.distils and method.budget


def iterations_of(definition: Definition, name: str) -> int:
    """Return the iterations of a row: ``round((steps - extra) / ratio)``, ``steps`` for the student alone."""
    budget, price = _budget(definition), price_of(definition, name)
    steps = 2 * budget.steps if name == TWICE else budget.steps
    found = round((steps - price['extra']) / price['ratio'])
    if found < 1:
        raise ValueError(
            f'{definition.path}: budget.steps={budget.steps} leaves no iteration for {name}, whose preparation costs '
            f'{price["extra"]:.0f} steps: raise budget.steps.'
        )
    return found


def length_of(definition: Definition, name: str, config: Config) -> tuple[int, int]:
    """Return the length of a row in the unit of its recipe, and how many iterations of the budget that leaves.

    Epochs are whole, rounded down.
    """
    iterations = iterations_of(definition, name)
    if unit_of(config) == 'max_iters':
        return iterations, 0
    if name in definition.methods and definition.methods[name].data:
        raise ValueError(
            f'{definition.path}: methods.{name}.data: the recipe counts epochs, which are of another length for other '
            'data: for such a row a budget needs a recipe that counts iterations.'
        )
    per_epoch = _budget(definition).per_epoch or measured(definition).get('per_epoch')
    if not per_epoch:
        raise ValueError(
            f'{definition.path}: budget: the recipe counts epochs, and the iterations of one are not known: run '
            f'`python tools/suite.py budget {definition.path}`, or pin budget.per_epoch.'
        )
    epochs, left = divmod(iterations, per_epoch)
    if not epochs:
        raise ValueError(
            f'{definition.path}: budget.steps: {name} gets {iterations} iterations, less than an epoch of {per_epoch}: '
            'raise budget.steps.'
        )
    return epochs, left


def fit(definition: Definition, name: str, config: Config) -> list[str]:
    """Give the config of a row its length; return what was changed. Without a budget, that is the row's own."""
    method = definition.methods.get(name)
    if definition.budget is not None:
        length, _ = length_of(definition, name, config)
    elif method is not None and method.length != 1:
        length = max(round(method.length * config.train_cfg[unit_of(config)]), 1)
    else:
        return []
    try:
        return scale_run(config, length)
    except ValueError as error:
        place = 'budget' if definition.budget is not None else f'methods.{name}.length'
        raise ValueError(f'{definition.path}: {place}: {error}') from error


def unscaled_hash(definition: Definition, name: str) -> str:
    """Return the hash of what a row trains, without the budget; a measured ratio belongs to one."""
    return config_hash(configs.method_config(definition, definition.methods[name]), folder=definition.path.parent)


def check_measured(definition: Definition, rows: Mapping[str, Method]) -> None:
    """Refuse ratios that were measured with other options."""
    found = measured(definition)['rows'] if definition.budget else {}
    for name in found.keys() & rows.keys() - set(definition.budget.ratios if definition.budget else ()):
        then, now = found[name]['config_hash'], unscaled_hash(definition, name)
        if then != now:
            raise ValueError(
                f'{measured_file(definition)}: rows.{name} was measured with config {then}, the definition now gives '
                f'{now}. Remove this row from the file and measure it by `suite.py budget`, or pin its ratio.'
            )


def _budget(definition: Definition) -> Budget:
    assert definition.budget is not None, 'called for suites of equal compute'
    return definition.budget
