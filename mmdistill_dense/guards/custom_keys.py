"""Check that the optimizer's options for parts of the student do not apply to distillers by mistake."""

from __future__ import annotations

from collections.abc import Iterable

from mmengine.runner import Runner
from torch import nn

from mmdistill_dense.utils.messages import some

_OPTION = 'optim_wrapper.paramwise_cfg.custom_keys'


def check_custom_keys(runner: Runner, model: nn.Module) -> None:
    """Refuse a key for the student that matches the name of a distiller; warn if it matches parts of a distiller.

    For each parameter, mmengine uses the longest of the ``custom_keys`` that its name contains. ``head``, meant for the
    student's head, is also in the names of all parameters of a distiller called ``head_kd``.
    """
    options = ((runner.cfg.get('optim_wrapper') or {}).get('paramwise_cfg') or {}).get('custom_keys') or {}
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    students = {name for name in names if not name.startswith('distillers.')}
    parts: dict[str, list[str]] = {}
    for name in names:
        key = _longest(name, options)
        if key is None or name in students or 'distillers' in key or not any(key in other for other in students):
            continue  # only a key that matches the student can match a distiller by mistake
        _, distiller, part = name.split('.', 2)
        if key not in part:
            raise ValueError(
                f'model.distillers.{distiller}: its name contains {key!r}, a key of {_OPTION} for the student, so its '
                f'parameters would get {dict(options[key])} too. Rename the distiller, or give it its own key: '
                f"custom_keys['distillers.{distiller}']=dict(lr_mult=1)."
            )
        parts.setdefault(key, []).append(name)
    for key, found in parts.items():
        runner.logger.warning(
            f'{_OPTION}[{key!r}]={dict(options[key])} also applies to parts of distillers: {some(found)}. To set other '
            "options for them, add custom_keys['distillers']."
        )


def _longest(name: str, keys: Iterable[str]) -> str | None:
    """Return the key that mmengine uses for a parameter."""
    return next((key for key in sorted(sorted(keys), key=len, reverse=True) if key in name), None)
