"""Which of the optimizer's options for parts of the student reach a distiller as well."""

from __future__ import annotations

from collections.abc import Iterable

from mmengine.runner import Runner
from torch import nn

from mmdistill_dense.utils.messages import some

_OPTION = 'optim_wrapper.paramwise_cfg.custom_keys'


def check_custom_keys(runner: Runner, model: nn.Module) -> None:
    """Refuse options for the student that reach a distiller by its name, and tell of those that reach its parts.

    mmengine takes for each parameter the longest of ``custom_keys`` that its name contains. ``head``, meant for the
    student's head, is also in the names of all parameters of a distiller that was called ``head_kd``.

    Args:
        runner: Its config holds the keys.
        model: Its parameters below ``distillers`` are the distillers', the others the student's.

    Raises:
        ValueError: Names the distiller, the key and what it would set.
    """
    options = ((runner.cfg.get('optim_wrapper') or {}).get('paramwise_cfg') or {}).get('custom_keys') or {}
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    students = {name for name in names if not name.startswith('distillers.')}
    parts: dict[str, list[str]] = {}
    for name in names:
        key = _longest(name, options)
        if key is None or name in students or 'distillers' in key or not any(key in other for other in students):
            continue  # only a key for the student can reach a distiller by mistake
        _, distiller, part = name.split('.', 2)
        if key not in part:
            raise ValueError(
                f'model.distillers.{distiller}: its name contains {key!r}, which {_OPTION} has for the student, so its '
                f'parameters would get {dict(options[key])} too. Give it another name, or say what it shall get: '
                f"custom_keys['distillers.{distiller}']=dict(lr_mult=1)."
            )
        parts.setdefault(key, []).append(name)
    for key, found in parts.items():
        runner.logger.warning(
            f'{_OPTION}[{key!r}]={dict(options[key])} reaches parts of distillers too: {some(found)}. Another setting '
            "for them goes into custom_keys['distillers']."
        )


def _longest(name: str, keys: Iterable[str]) -> str | None:
    """Return the key that mmengine takes for a parameter."""
    return next((key for key in sorted(sorted(keys), key=len, reverse=True) if key in name), None)
