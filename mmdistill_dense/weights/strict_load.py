"""Find the file of a checkpoint option, also on the Hugging Face hub, check its hash, and load its weights strictly."""

import hashlib
import logging
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import torch
import yaml
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from torch import Tensor, nn

from mmdistill_dense.config.resolve import is_distill_model, load_model, model_of, package_root, student_option
from mmdistill_dense.config.values import listed
from mmdistill_dense.utils.files import expand_user, write_text
from mmdistill_dense.utils.validate import some
from mmdistill_dense.weights.safe_load import INDEX, part_files, plain_name, plain_names
from mmdistill_dense.weights.safe_load import read_checkpoint as read_checkpoint  # users of weights take both from here

HUB = 'hf://'
_ADDRESS = re.compile(r'hf://([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)')
_HASHED_NAME = re.compile(r'-(?!20\d{6}\.)([0-9a-f]{8,64})\.(?:pth|pt|safetensors)$')  # and no date


def published_weights(name: str) -> str:
    """Return the address of the weights that a package's metafiles publish for ``'package::folder/file.py'``."""
    if '::' not in name:
        raise ValueError(f"checkpoint='auto' needs a zoo config such as 'mmseg::…', got cfg={name!r}: give the file.")
    package, _, file = name.partition('::')
    config = 'configs/' + (file if file.endswith('.py') else f'{file}.py')
    urls = _published(package).get(config, [])
    if len(urls) != 1:
        problem = 'publishes no weights' if not urls else f'publishes {len(urls)} files ({", ".join(urls)})'
        raise ValueError(f"checkpoint='auto': {package} {problem} for {config}: give the file or its address.")
    return urls[0]


@cache
def _published(package: str) -> dict[str, list[str]]:
    root, read = package_root(package), partial(yaml.load, Loader=getattr(yaml, 'CSafeLoader', yaml.SafeLoader))
    table: dict[str, list[str]] = {}
    metafiles = read((root / 'model-index.yml').read_text(encoding='utf-8'))['Import']
    for metafile in filter(Path.is_file, map(root.joinpath, metafiles)):
        content = read(metafile.read_text(encoding='utf-8'))
        for model in content.get('Models', content) if isinstance(content, dict) else content:
            urls = table.setdefault(model.get('Config', ''), [])
            urls.extend(url for url in listed(model.get('Weights')) if url not in urls)
    return table


def downloads() -> Path:
    """Return the folder of downloaded weights."""
    return Path(os.getenv('MMDISTILL_CACHE', Path.home() / '.cache' / 'mmdistill_dense')) / 'checkpoints'


def is_path(checkpoint: str) -> bool:
    """Tell whether a checkpoint option names a file on this machine, not an address or ``'auto'``."""
    return checkpoint != 'auto' and '://' not in checkpoint


def local_file(checkpoint: str, config: str | None, key: str) -> Path:
    """Return the local file of a checkpoint option, downloaded if it is an address, its hash checked.

    ``checkpoint`` is a file, an ``http(s)`` address with a hash (:func:`promised_hash`), ``hf://user/repo/file`` of the
    Hugging Face hub, or ``'auto'``, which needs the config's zoo name. ``key`` is named in errors.
    """
    if checkpoint == 'auto':
        checkpoint = published_weights(config or '')
    if checkpoint.startswith(HUB):
        path, digits = hub_file(checkpoint, key), promised_hash(checkpoint)
    elif re.match(r'https?://', checkpoint):
        digits = promised_hash(checkpoint)
        if digits is None:
            remedy = 'add its SHA-256 (…#sha256=<hexadecimal digits>), or give the path of a downloaded file'
            raise ValueError(f'{key}={checkpoint!r}: this address has no hash to check the file with: {remedy}.')
        path = download(checkpoint, downloads(), key)
    else:
        path = expand_user(checkpoint)
        digits = promised_hash(path.name)
        if not path.is_file():
            names = sorted(p.name for p in path.parent.glob('*') if p.suffix in ('.pth', '.pt', '.safetensors'))
            beside = f'The folder holds {some(names) or "no checkpoint"}'
            if not path.parent.is_dir():
                beside = f'There is no folder {str(path.parent)!r} either'
            raise FileNotFoundError(f'{key}={checkpoint!r}: no such file (working folder {Path.cwd()}). {beside}.')
    check_promise(path, digits, key)
    return path


def promised_hash(address: str) -> str | None:
    """Return the first digits of the SHA-256 in a name (``…-1a2b3c4d.pth``) or an address (``…#sha256=…``)."""
    path, marker, digits = address.partition('#sha256=')
    if marker and not re.fullmatch(r'[0-9a-fA-F]{8,64}', digits):
        raise ValueError(f'{address!r}: #sha256= must be followed by 8 to 64 hexadecimal digits, got {digits!r}.')
    match = _HASHED_NAME.search(urlsplit(path).path)
    return digits.lower() or (match[1] if match else None)


def check_promise(path: Path, digits: str | None, key: str) -> None:
    """Raise a ``ValueError`` for a file that has another SHA-256 than one that was promised."""
    if digits and not sha256(path).startswith(digits):
        problem = f'the content has SHA-256 {sha256(path)[:8]}…, but its name promises {digits}'
        raise ValueError(f'{key}={str(path)!r}: {problem}: download it again, or rename it if you made it.')


def download(url: str, folder: Path, key: str) -> Path:
    """Return the file of an address in a folder, downloaded unless it is there; a new file has the promised hash.

    Of several addresses that end in one file name, the first one's file has that name; each other one has a folder of
    its own. Without a hash, a note beside the file (``NAME.address``) says whose it is. A file without a note, as one
    that a user put there, counts as that of any address.
    """
    address, digits = url.partition('#')[0], promised_hash(url)
    path = folder / Path(urlsplit(address).path).name
    origin = path.with_name(f'{path.name}.address')
    if digits is None:
        is_other = origin.is_file() and origin.read_text(encoding='utf-8') != address
    else:
        is_other = path.is_file() and not sha256(path).startswith(digits)
    if is_other:
        path = folder / hashlib.sha256(address.encode()).hexdigest()[:16] / path.name
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if digits is None and path.parent == folder:
                write_text(origin, address)
            torch.hub.download_url_to_file(address, str(path), hash_prefix=digits)
        except (OSError, RuntimeError) as error:
            problem = f'{key}: could not download {address} to {path} ({error})'
            raise OSError(f'{problem}: download it elsewhere, and give the file or put it there.') from error
    return path


@cache
def _sha256(path: str, size: int, modified: int) -> str:
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal; of an index of several files, that of their hashes."""
    if path.name.endswith(INDEX):
        parts = ''.join(sha256(path.parent / name) for name in sorted(part_files(path)))
        return hashlib.sha256(parts.encode()).hexdigest()
    stat = path.stat()
    return _sha256(str(path.absolute()), stat.st_size, stat.st_mtime_ns)


Names = Sequence[str]
_SHOWN = 6
_HOLDS = 'holds '
_CHUNK = re.compile(r'(?<![^.])blocks\.\d+\.(?=\d+\.)')
_AVERAGES = ('state_dict_ema', 'model_ema', 'ema_model', 'ema')  # of timm, DETR and others
_Entry = TypeVar('_Entry')


def without_chunks(names: Collection[str]) -> list[str]:
    """Return names without the block chunks of DINOv2's code: ``blocks.0.1.norm1`` is of block 1.

    Where two names would become one, the first number is that of a stage, and all stay.
    """
    short = [_CHUNK.sub('blocks.', name) for name in names]
    return short if len({*short}) == len(short) else [*names]


def match_names(targets: Collection[str], entries: Mapping[str, _Entry]) -> dict[str, _Entry]:
    """Return a file's entries by a network's own names, where wrappers and block chunks alone are different."""
    names = {plain_name(short): name for short, name in zip(without_chunks(targets), targets, strict=True)}
    pairs = zip(without_chunks(entries), entries.items(), strict=True)
    return {name if name in targets else names.get(plain_name(short), name): entry for short, (name, entry) in pairs}


def tensors_of(entries: Mapping[Any, Any], file: str) -> dict[str, Tensor]:
    """Return the tensors among a file's entries by their plain names.

    mmcv 1.x keeps the weights of the last step beside their averages, as ``ema_backbone_conv1_weight``: left out.
    """
    tensors = {name: entry for name, entry in entries.items() if isinstance(name, str) and isinstance(entry, Tensor)}
    plain = plain_names(tensors, file)
    live = {f'ema_{name.replace(".", "_")}' for name in plain}
    return {name: tensor for name, tensor in plain.items() if '.' in name or name not in live}


def warn_of_averages(checkpoint: Mapping[str, Any], file: str) -> None:
    """Warn of averaged weights below a key that no reader looks at."""
    for key in _AVERAGES:
        if isinstance(checkpoint.get(key), Mapping):
            print_log(f'{file}: {key} is left out; what is read is not averaged.', 'current', logging.WARNING)


def state_dict_of(checkpoint: Mapping[str, Any], path: str | Path) -> dict[str, Tensor]:
    """Return the weights in a checkpoint; a ``ValueError`` says that there are none."""
    states = [entry for entry in map(checkpoint.get, ('state_dict', 'model')) if isinstance(entry, Mapping)]
    tensors = tensors_of(states[0] if states else checkpoint, repr(str(path)))
    if not tensors:
        raise ValueError(f'{str(path)!r} holds no weights; its entries are {sorted(map(str, checkpoint))[:_SHOWN]}.')
    warn_of_averages(checkpoint, repr(str(path)))
    return tensors


@dataclass
class Receipt:
    """The origin of a teacher's weights; the meta of every checkpoint keeps it."""

    config: str | None
    file: str | None
    sha256: str | None
    matched: int
    total: int
    ignored: int

    def describe(self, digits: int | None = None) -> str:
        """Return the file, its hash, or so many digits of it, and the numbers of tensors in a line."""
        if self.file is None:
            return 'random weights'
        left_out = f', {self.ignored} left out' if self.ignored else ''
        return f'{self.file}, SHA-256 {str(self.sha256)[:digits]}, {self.matched} of {self.total} tensors{left_out}'

    as_dict = asdict


def load_strictly(
    network: nn.Module, state: Mapping[str, Tensor], parts: Collection[str] | None, key: str
) -> tuple[int, int]:
    """Load weights into a network; those of the given parts must match exactly.

    Top-level children outside ``parts`` take what fits, for instance a head with other classes that no tap needs. A
    missing ``num_batches_tracked`` is no error, since evaluation does not read it. A tensor does not fit if it has
    another shape, integers instead of floats, numbers that are not finite, or no values. Without ``parts`` all must
    match. Returned are the number of loaded tensors and that of ignored ones; an error names the config's ``key``.
    """

    def strict(name: str) -> bool:
        return parts is None or '.' not in name or name.split('.')[0] in parts

    target = network.state_dict()
    state = match_names(target, state)
    unfit = {n: reason for n, v in state.items() if n in target and (reason := _mismatch(target[n], v))}
    # Unknown names are passed on as well, because mm* layers rename those of older files inside load_state_dict.
    source = {n: v for n, v in state.items() if n not in unfit and (n in target or strict(n))}
    result = network.load_state_dict(source, strict=False)
    wrong = {n: reason for n, reason in unfit.items() if strict(n)}
    missing = [n for n in result.missing_keys if strict(n) and n not in wrong and not n.endswith('num_batches_tracked')]
    unexpected = [n for n in result.unexpected_keys if strict(n)]
    remedy = 'Give the file that was trained with this config (no deep-stem ResNet, backbone or student), or mend it.'
    # among all names of the file: those outside the parts are no longer in `unexpected`
    if prefix := prefix_of(state, missing):
        remedy = f'All of them fit without the prefix {prefix!r}: cut it.'
    _refuse(key, type(network).__name__, len(target), missing, unexpected, wrong, remedy)
    return len(source), len(state) - len(source)


def _mismatch(target: Tensor, source: Tensor) -> str | None:
    """Return why a tensor cannot replace ``target``, or ``None`` if it can; torch itself would cast without a word."""
    if target.shape != source.shape:
        return f'{tuple(source.shape)} (model {tuple(target.shape)})'
    if source.is_meta or source.is_quantized or source.layout != torch.strided:
        return 'without values' if source.is_meta else f'{source.dtype}, {source.layout}'
    if target.is_floating_point() and not source.is_floating_point():
        return f'{source.dtype} (model {target.dtype})'
    if not target.is_floating_point():
        return None
    infinite = source.to(target.dtype).isinf()
    if source.isnan().any():
        return f'{_HOLDS}NaN'
    # Attention masks hold infinity on purpose, where those of a new network do.
    damaged = infinite.any() and (infinite & target.isfinite().to(infinite.device)).any()
    return f'{_HOLDS}infinity{"" if source.isinf().any() else f" as {target.dtype}"}' if damaged else None


def _refuse(
    where: str, network: str, total: int, missing: Names, unexpected: Names, wrong: Mapping[str, str], remedy: str
) -> None:
    """Raise a ``ValueError`` that lists the first tensors that do not fit, if there are any."""
    if damaged := [f'{name} {reason}' for name, reason in wrong.items() if reason.startswith(_HOLDS)]:
        raise ValueError(
            f'{where}: {some(damaged, _SHOWN)}. The file is damaged, of a training that diverged, or was cut to half '
            'precision, which ends at 65504: give an earlier or a whole file.'
        )
    kinds = dict(missing=missing, unexpected=unexpected, unfit=[f'{name} {reason}' for name, reason in wrong.items()])
    if any(kinds.values()):
        lines = ''.join(f'\n  {kind}: {some(names, _SHOWN)}' for kind, names in kinds.items() if names)
        raise ValueError(
            f'{where} does not fit {network} ({total} tensors): {len(missing)} missing, {len(unexpected)} unexpected, '
            f'{len(wrong)} of another shape or kind.{lines}\n  {remedy}'
        )


@torch.no_grad()
def copy_strictly(
    targets: Mapping[str, Tensor], state: Mapping[str, Tensor], where: str, network: str, remedy: str
) -> None:
    """Copy a file's entries into tensors, or views of them, by the file's names; all must be there and fit.

    The entries have one floating type, but for single numbers. An error says ``where`` and which ``network`` they do
    not fit, and ends with the ``remedy``.
    """
    types = [entry.dtype for entry in state.values() if entry.is_floating_point()]
    usual = max(types, key=types.count, default=None)
    dtypes = {n: f'{x.dtype} (the others {usual})' for n, x in state.items() if x.ndim and x.dtype != usual}
    reasons = {n: _mismatch(target, state[n]) or dtypes.get(n) for n, target in sorted(targets.items()) if n in state}
    wrong = {n: reason for n, reason in reasons.items() if reason}
    missing, unexpected = ([n for n in a if n not in b] for a, b in ((targets, state), (state, targets)))
    _refuse(where, network, len(targets), missing, unexpected, wrong, remedy)
    for name, target in targets.items():
        target.copy_(state[name])


def class_names_in(content: Mapping[str, Any]) -> list[str]:
    """Return the names of the classes that a checkpoint was trained on; empty if it does not say them."""
    meta = content.get('meta') or {}
    data = meta.get('dataset_meta')
    data = data if isinstance(data, Mapping) else {}
    return list(data.get('classes') or data.get('CLASSES') or meta.get('CLASSES') or [])


def plain_config(config: Config) -> Config:
    """Return the flattened config of the student alone (model, data, schedule), without any distillation."""
    flat = ConfigDict(config.to_dict())  # to_dict drops the names that a read_base() config imports
    flat.model = model_of(flat)  # as the runner does; inferencers do not
    if is_distill_model(flat.model):
        resolved = load_model(student_option(flat.model), 'model.student')
        flat.model = resolved.model
        if resolved.scope not in (None, flat.get('default_scope')):
            flat.model['_scope_'] = resolved.scope
    flat.pop('distillers', None)
    (flat.get('default_hooks') or {}).pop('distill', None)
    if flat.get('tta_model'):
        flat.tta_model.pop('module', None)
    if str((flat.get('model_wrapper_cfg') or {}).get('type', '')).startswith('mmdistill_dense.'):
        flat.pop('model_wrapper_cfg')
    modules = listed((flat.get('custom_imports') or {}).get('imports'))
    if imports := [name for name in modules if name.split('.')[0] != 'mmdistill_dense']:
        flat.custom_imports.imports = imports
    else:
        flat.pop('custom_imports', None)
    return Config(flat)


def hub_file(address: str, key: str) -> Path:
    """Return the local file of ``hf://user/repo/file`` or ``hf://user/repo@revision/file``.

    The parts that an index lists are fetched too. :func:`local_file` checks ``#sha256=``, which may follow.
    """
    match, where = _ADDRESS.fullmatch(address.partition('#')[0]), f'{key}={address!r}'
    if not match:
        raise ValueError(f'{where}: write hf://user/repo/file, or hf://user/repo@revision/file.')
    repository, revision, name = match.groups()
    try:
        import huggingface_hub
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError as error:
        raise ModuleNotFoundError(f"{where}: needs huggingface_hub: pip install 'mmdistill_dense[hub]'") from error

    def fetch(part: str) -> Path:
        try:
            return Path(huggingface_hub.hf_hub_download(repository, part, revision=revision))
        except LocalEntryNotFoundError as error:
            problem = 'the hub does not answer (or HF_HUB_OFFLINE is set), and its cache lacks the file'
            raise OSError(f'{where}: {problem}: give one that you downloaded elsewhere.') from error
        except Exception as error:  # its HTTP library has errors of its own
            text = str(error).strip().partition('\n')[0] or type(error).__name__
            raise OSError(f'{where}: the hub says: {text} Check names, revision and, if private, HF_TOKEN.') from error

    path = fetch(name)
    for part in part_files(path) if name.endswith(INDEX) else ():
        fetch(str(Path(name).with_name(part)))
    return path


def prefix_of(state: Iterable[str], targets: Collection[str]) -> str:
    """Return what stands before all wanted names in a file, such as ``model.``; empty if nothing does."""
    name, names = min(targets, default=''), set(state)
    prefixes = (entry.removesuffix(name) for entry in names if name and entry.endswith(f'.{name}'))
    return min((prefix for prefix in prefixes if names.issuperset(prefix + target for target in targets)), default='')


def below(state: Mapping[str, Tensor], prefix: str | None) -> dict[str, Tensor]:
    """Return the tensors whose names have a prefix, without it; all tensors if there is no prefix."""
    if prefix and prefix in state:  # a parameter by itself has no name below: DETR's level_embed
        return {'the tensor itself': state[prefix]}
    start = f'{prefix.rstrip(".")}.' if prefix else ''
    return {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
