"""Our safe reader in mmengine's ``CheckpointLoader``, for every scheme, once :func:`install_reader` is called.

``load_from``, ``--resume``, ``mim test``, ``init_cfg=dict(type='Pretrained')`` and the inferencers all load through
``CheckpointLoader``. Its own functions may run code from the file: the forks fall back to that, upstream leaves it to
torch's default, and downloads are not protected at all.
"""

import io
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import mmengine
import torch
from mmengine.dist import barrier, get_rank
from mmengine.fileio import get_file_backend, load
from mmengine.logging import print_log
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from mmdistill_dense.utils.files import expand_user
from mmdistill_dense.weights.safe_load import read_for_mmengine
from mmdistill_dense.weights.strict_load import HUB, check_promise, download, local_file, promised_hash, sha256

_KEY = 'checkpoint'
_PUBLISHERS = ('torchvision://', 'modelzoo://', 'open-mmlab://', 'openmmlab://', 'mmcls://')


def load_from_http(filename: str, map_location: Any = None) -> Any:
    """Read the file at an address; the first process downloads it into torch's cache."""
    folder = Path(torch.hub.get_dir(), 'checkpoints')
    if get_rank() == 0:
        download(filename, folder, _KEY)
    barrier()
    path = download(filename, folder, _KEY)
    check_promise(path, promised_hash(filename), _KEY)
    if promised_hash(filename) is None:
        print_log(f'{filename} has no hash to check; its content has SHA-256 {sha256(path)}', logger='current')
    try:
        return read_for_mmengine(path, map_location=map_location)
    except Exception:
        is_own = path.parent != folder or path.with_name(f'{path.name}.address').is_file()
        if is_own and promised_hash(filename) is None and not is_zipfile(path):  # half a download: fetched again
            with suppress(OSError):  # of another user
                path.unlink()
        raise


def address_of(filename: str) -> str:
    """Return the address of weights that are published under a name; an address or a file stays as it is."""
    scheme, _, name = filename.partition('://')
    if not filename.startswith(_PUBLISHERS):
        return filename
    files = _published_addresses(scheme, name)
    if name not in files:
        raise KeyError(f'{filename!r}: {scheme} publishes no weights under the name {name!r}.')
    address = files[name]
    return address if '://' in address else str(Path(mmengine_checkpoint._get_mmengine_home(), address))


def _published_addresses(scheme: str, name: str) -> dict[str, str]:
    if scheme == 'mmcls':
        return mmengine_checkpoint.get_mmcls_models()
    if scheme in ('open-mmlab', 'openmmlab'):
        urls, aliases = mmengine_checkpoint.get_external_models(), mmengine_checkpoint.get_deprecated_model_names()
        return {**urls, **{old: urls[new] for old, new in aliases.items() if new in urls}}
    try:
        return mmengine_checkpoint.get_torchvision_models()
    except ModuleNotFoundError as error:  # mmengine's own list is enough but for newer names (resnet50.imagenet1k_v2)
        if error.name != 'torchvision':
            raise
        urls = load(Path(mmengine.__file__).with_name('hub') / 'torchvision_0.12.json')
        if name not in urls:
            problem = f"'{scheme}://{name}': mmengine does not list it"
            raise KeyError(f'{problem}; pip install torchvision may know it.') from error
        return urls


def load_from_local(filename: str, map_location: Any = None) -> Any:
    """Read a file, or the weights that torchvision or OpenMMLab publishes under a name."""
    address = address_of(filename)
    if address.startswith(('http://', 'https://')):
        return load_from_http(address, map_location)
    path = expand_user(address)
    if not path.is_file():
        raise FileNotFoundError(f'{address} can not be found (working folder {Path.cwd()}).')
    return read_for_mmengine(path, map_location=map_location)


load_by_name = load_from_local  # as it was called for names alone


def load_from_hub(filename: str, map_location: Any = None) -> Any:
    return read_for_mmengine(local_file(filename, None, _KEY), map_location=map_location)


def load_from_mmcls(filename: str, map_location: Any = None) -> Any:
    """Read a backbone that mmpretrain publishes under a name: ``mmcls://resnet50``."""
    return mmengine_checkpoint._process_mmcls_checkpoint(load_from_local(filename, map_location))


def load_from_ceph(filename: str, map_location: Any = None) -> Any:
    content = get_file_backend(filename, backend_args={'backend': 'petrel'}).get(filename)
    with io.BytesIO(content) as file:
        return read_for_mmengine(file, filename, map_location)


def load_from_pavi(filename: str, map_location: Any = None) -> Any:
    """Refuse a scheme whose client unpickles files itself."""
    raise ValueError(f'{filename!r}: mmdistill_dense does not read pavi://; download the file and give its path.')


@cache
def install_reader() -> None:
    """Replace mmengine's loaders by ours, for all of its schemes; a second call does nothing.

    A program that registers a loader of its own afterwards keeps it, however many networks are built.
    """
    schemes = {
        ('', *_PUBLISHERS): load_from_local,
        ('http://', 'https://'): load_from_http,
        HUB: load_from_hub,
        'pavi://': load_from_pavi,
        (r'(\S+\:)?s3://', r'(\S+\:)?petrel://'): load_from_ceph,
        'mmcls://': load_from_mmcls,  # renames entries, too
    }
    for prefixes, loader in schemes.items():
        CheckpointLoader.register_scheme(prefixes, loader, force=True)
