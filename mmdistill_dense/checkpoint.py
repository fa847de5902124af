"""Reading weights without running code, loading them strictly, and writing the student out."""

from __future__ import annotations

import pickle
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from torch import Tensor, nn

from mmdistill_dense.zoo import is_distill_model, load_model, student_option

_SHOWN = 6


class _Opaque:
    """Stands in for what a runner's log history is made of: it unpickles to nothing and runs nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _no_getattr(*args: Any) -> type[_Opaque]:
    return _Opaque


def read_checkpoint(path: str | Path, allowed: Sequence[type] = ()) -> dict[str, Any]:
    """Read a checkpoint as tensors and plain values only; files written by mmengine's runner are understood.

    Args:
        path: A ``torch.save`` file or ``.safetensors``.
        allowed: Further classes that the file may hold: plain holders of values.

    Raises:
        ValueError: When the file is damaged, is no checkpoint, or holds code.
    """
    if str(path).endswith('.safetensors'):
        return {'state_dict': _read_safetensors(path)}
    core = getattr(np, '_core', None) or np.core  # numpy 2, numpy 1
    rebuild = [core.multiarray._reconstruct, core.multiarray.scalar]
    dtypes = [value for value in vars(np.dtypes).values() if isinstance(value, type)]
    # Files travel between numpy 1 and 2, where these functions have other addresses.
    renamed = [(value, f'numpy.{name}.multiarray.{value.__name__}') for value in rebuild for name in ('core', '_core')]
    stubs: list[Any] = [(_no_getattr, 'builtins.getattr'), (_Opaque, 'mmengine.logging.history_buffer.HistoryBuffer')]
    try:
        with torch.serialization.safe_globals([np.ndarray, np.dtype, *renamed, *dtypes, *stubs, *allowed]):
            checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError, IndexError) as error:
        refused = re.search(r'GLOBAL (\S+)', str(error))
        if isinstance(error, pickle.UnpicklingError) and refused:
            raise ValueError(
                f'{str(path)!r} holds more than tensors and plain values ({refused[1]}) and was not read, because that '
                'could run code. Re-save its state_dict alone.'
            ) from error
        raise _unreadable(path, error) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f'{str(path)!r} holds a {type(checkpoint).__name__}, no dictionary of weights.')
    return checkpoint


def _read_safetensors(path: str | Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError  # type: ignore[import-not-found,unused-ignore]
    from safetensors.torch import load_file  # type: ignore[import-not-found,unused-ignore]

    try:
        return load_file(str(path))
    except SafetensorError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str | Path, error: Exception) -> ValueError:
    first = re.split(r'\n|\. ', str(error))[0] or 'it ends too early'
    reason = 'not written by torch.save' if isinstance(error, pickle.UnpicklingError) else first
    return ValueError(f'{str(path)!r} is no readable checkpoint (damaged, truncated or of another kind): {reason}')


def state_dict_of(checkpoint: Mapping[str, Any], path: str | Path) -> dict[str, Tensor]:
    """Return the network's weights out of a checkpoint, ``module.`` prefixes of DDP files removed.

    Raises:
        ValueError: When there are no tensors.
    """
    state = next(
        (checkpoint[key] for key in ('state_dict', 'model') if isinstance(checkpoint.get(key), Mapping)), checkpoint
    )
    tensors = {name.removeprefix('module.'): value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f'{str(path)!r} holds no weights; its entries are {sorted(map(str, checkpoint))[:_SHOWN]}.')
    return tensors


@dataclass
class Receipt:
    """What a teacher was made of; kept in every checkpoint's meta."""

    config: str | None
    file: str | None
    sha256: str | None
    matched: int
    total: int
    ignored: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def load_strictly(
    network: nn.Module, state: Mapping[str, Tensor], parts: Collection[str] | None, key: str
) -> tuple[int, int]:
    """Load weights into a network; what the given parts need must match exactly.

    Top-level children outside ``parts`` (a head that no tap needs, with other classes) take what fits. A missing
    ``num_batches_tracked`` is forgiven, since evaluation does not read it.

    Args:
        network: The network.
        state: Its weights by name.
        parts: Names of the top-level children that must be complete; ``None`` means all.
        key: The config key to name in an error.

    Returns:
        The number of loaded tensors, and of given tensors that no strict part asked for and that did not fit.

    Raises:
        ValueError: Lists the first missing, unexpected and wrongly shaped tensors of the strict parts.
    """

    def strict(name: str) -> bool:
        return parts is None or '.' not in name or name.split('.')[0] in parts

    own = network.state_dict()
    fits = {n: v for n, v in state.items() if n in own and own[n].shape == v.shape}
    # Names the network does not have go to load_state_dict all the same: older files are renamed there by mm* layers.
    wrong = [n for n in state if strict(n) and n in own and n not in fits]
    given = {n: v for n, v in state.items() if n in fits or (strict(n) and n not in wrong)}
    result = network.load_state_dict(given, strict=False)
    missing = [n for n in result.missing_keys if strict(n) and n not in wrong and not n.endswith('num_batches_tracked')]
    unexpected = [n for n in result.unexpected_keys if strict(n)]
    if missing or unexpected or wrong:
        shapes = [f'{n} {tuple(state[n].shape)} (model {tuple(own[n].shape)})' for n in wrong]
        raise ValueError(_mismatch(network, len(own), missing, unexpected, shapes, key))
    return len(given), len(state) - len(given)


def _mismatch(
    network: nn.Module, total: int, missing: list[str], unexpected: list[str], wrong: list[str], key: str
) -> str:
    def some(title: str, names: list[str]) -> str:
        more = f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''
        return f'\n  {title}: {", ".join(names[:_SHOWN])}{more}' if names else ''

    return (
        f'{key} does not fit {type(network).__name__} ({total} tensors): {len(missing)} missing, {len(unexpected)} '
        f'unexpected, {len(wrong)} of another shape.'
        + some('missing', missing)
        + some('unexpected', unexpected)
        + some('shapes', wrong)
        + '\n  Give the checkpoint that was trained with this config (a deep-stem ResNet, a backbone-only file and a '
        'student file are the usual mistakes), or correct the config.'
    )


def export_student(config: Config, checkpoint: str | Path, out: str | Path) -> tuple[Path, Path]:
    """Write a distilled student as an ordinary network: the weights alone, and the flattened plain config that loads
    them.

    Args:
        config: The config the student was trained with (a leaf with a ``DistillModel``, or any plain config).
        checkpoint: A checkpoint of that run.
        out: The weights' path; the config gets the same name with ``.py``.

    Returns:
        The paths of the weights and of the config.

    Raises:
        ValueError: When the checkpoint does not fit the student exactly, or ``out`` is no .pth file.
    """
    from mmengine.registry import MODELS, init_default_scope

    if Path(out).suffix != '.pth':
        raise ValueError(f'out={str(out)!r} must end in .pth; the config is written beside it, ending in .py.')
    plain = plain_config(config)
    content = read_checkpoint(checkpoint)
    state = state_dict_of(content, checkpoint)
    init_default_scope(plain.get('default_scope', 'mmengine'))
    with torch.device('cpu'):
        load_strictly(MODELS.build(plain.model), state, None, f'checkpoint={str(checkpoint)!r}')
    weights = Path(out)
    weights.parent.mkdir(parents=True, exist_ok=True)
    meta = {
        key: value for key, value in content.get('meta', {}).items() if key in ('dataset_meta', 'epoch', 'iter', 'seed')
    }
    torch.save({'meta': meta, 'state_dict': state}, weights)
    path = weights.with_suffix('.py')
    plain.dump(path)
    return weights, path


def plain_config(config: Config) -> Config:
    """Return the flattened config of the student alone: model, data, schedule; nothing of the distillation is left."""
    flat = ConfigDict(config.to_dict())  # without the names that a read_base() config imports
    if is_distill_model(flat.model):
        resolved = load_model(student_option(flat.model), 'model.student')
        flat.model = resolved.model
        if resolved.scope not in (None, flat.get('default_scope')):
            flat.model['_scope_'] = resolved.scope
    flat.pop('distillers', None)
    flat.get('default_hooks', {}).pop('distill', None)
    if 'tta_model' in flat:
        flat.tta_model.pop('module', None)
    if str(flat.get('model_wrapper_cfg', {}).get('type', '')).startswith('mmdistill_dense.'):
        flat.pop('model_wrapper_cfg')
    imports = flat.get('custom_imports', {}).get('imports', [])
    imports = [
        name for name in ([imports] if isinstance(imports, str) else imports) if not name.startswith('mmdistill_dense.')
    ]
    if imports:
        flat.custom_imports.imports = imports
    else:
        flat.pop('custom_imports', None)
    return Config(flat)
