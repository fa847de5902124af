"""Tell in the log which options differ between a run and its resumption."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mmengine.runner import Runner

from mmdistill_dense.utils.messages import some

_PER_START = ('work_dir', 'load_from', 'resume', 'launcher', 'experiment_name')
# What torch and mmengine take from a checkpoint, whatever the config says.
_RESTORED = re.compile(r'optim_wrapper\.(\w+\.)?(optimizer|paramwise_cfg)\.|param_scheduler\.')


def tell_changes(runner: Runner, checkpoint: Mapping[str, Any]) -> None:
    """Warn of options that differ from those in the checkpoint, and of those among them that have no effect.

    Raises:
        ValueError: For another optimizer, which cannot go on from the state in the checkpoint.
    """
    text = (checkpoint.get('meta') or {}).get('cfg')  # mmengine writes the text of the config
    then, now = dict(_flat(written(text))), dict(_flat(runner.cfg.to_dict()))
    names = sorted(name for name in {*then, *now} if name.split('.')[0] not in _PER_START)
    pairs = ((name, then.get(name, 'not set'), now.get(name, 'not set')) for name in names)
    changed = [(name, old, new) for name, old, new in pairs if old != new]
    if not then or not changed:
        return
    advice = 'To train with new ones, set load_from to the checkpoint, and leave resume out.'
    for name, old, new in changed:
        if name.endswith('optimizer.type') and old.rpartition('.')[2] != new.rpartition('.')[2]:
            raise ValueError(f'{name}={new!r}, but the checkpoint to resume has the state of {old!r}. {advice}')
    told = some([f'{name} {old} -> {new}' for name, old, new in changed], 8)
    kept = [name for name, _, _ in changed if _RESTORED.match(name)]
    without = (
        f' The checkpoint holds optimizer and schedules, so the old {some(kept, 8)} stay. {advice}' if kept else ''
    )
    runner.logger.warning(f'The config differs from that of the checkpoint to resume: {told}.{without}')


def written(text: Any) -> dict[str, Any]:
    """Return the values in the text of a config without running it; a dict without entries if it is no config."""
    try:
        lines = ast.parse(text).body
    except (SyntaxError, TypeError, ValueError):
        return {}
    pairs = [(line.targets[0], line.value) for line in lines if isinstance(line, ast.Assign)]
    return {name.id: _value(value) for name, value in pairs if isinstance(name, ast.Name)}


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        given = [_value(mapping) for mapping in node.args]  # dict({'a.b': 1}), for names that are no identifiers
        return {name: value for mapping in given for name, value in mapping.items()} | {
            str(word.arg): _value(word.value) for word in node.keywords
        }
    if isinstance(node, ast.Dict):
        return {_value(name): _value(value) for name, value in zip(node.keys, node.values, strict=True) if name}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(member) for member in node.elts]
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def _flat(value: Any, place: str = '') -> Iterator[tuple[str, str]]:
    """Yield the dotted name and the text of every value in nested dicts and lists."""
    if isinstance(value, Mapping):
        members: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, (list, tuple)):
        members = enumerate(value)
    else:
        yield place, str(value)
        return
    for name, member in members:
        yield from _flat(member, f'{place}.{name}' if place else str(name))
