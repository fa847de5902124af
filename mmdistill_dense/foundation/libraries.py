"""LibraryTeacher: networks of timm and transformers, which are imported when a config names them."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mmdistill_dense.networks.inputs import cells, resized
from mmdistill_dense.utils.messages import some
from mmdistill_dense.weights.safe_load import INDEX
from mmdistill_dense.weights.strict_load import load_strictly, read_checkpoint, state_dict_of

LIBRARIES = ('timm', 'transformers')


class LibraryTeacher(nn.Module):
    """A network of timm (``'timm::NAME'``) or transformers (``'transformers::FOLDER'``); taps ``map``, ``maps.<i>``.

    ``FoundationTeacher(model='timm::…')`` makes it. The maps are those that the library returns for its blocks or
    stages, behind the final norm; ``map`` is the last. timm's pass ends behind the deepest tap, transformers' at the
    end.

    Args:
        model: ``'timm::NAME'``; or ``'transformers::FOLDER'``, a local folder with ``config.json``. No hub is asked.
        ignore: Prefixes of entries in a file for timm that are to be ignored; those of its classifier are.
        data_preprocessor: Normalisation of the pictures. Defaults to timm's for this name; transformers needs it.

    Raises:
        ValueError: For another library, one that cannot be imported, or a network without maps; says what to do.
    """

    features_alone = True

    def __init__(
        self, model: str, ignore: Collection[str] = (), data_preprocessor: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        library, _, name = model.partition('::')
        if library not in LIBRARIES:
            raise ValueError(f'model={model!r}: before "::" stands one of {", ".join(LIBRARIES)}.')
        module = _imported(library, model)
        self.ignore, self.source, self.folder = tuple(ignore), model, name if library == 'transformers' else None
        try:
            build = _of_timm if library == 'timm' else _of_transformers
            self.network, count, self.size_divisor, own = build(module, name)
        except Exception as error:  # the library may raise anything
            raise ValueError(
                f'model={model!r} could not be made: {_first_line(error)}. It must be a network of {library} that '
                f'takes pictures of any size and returns maps. {_OWN}'
            ) from error
        self.preprocessor = data_preprocessor or own
        self.maps = nn.ModuleDict({str(number): nn.Identity() for number in range(count)})
        self.map = nn.Identity()
        self.tap_hint = f'A teacher of {library} is tapped at map and maps.0 … maps.{count - 1}. '

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the last map (B, C, h, w) of normalised pictures (B, 3, H, W)."""
        height, width = (self.size_divisor * count for count in cells(pictures, self.size_divisor))
        pictures = resized(pictures, (height, width))
        if self.folder is None:
            blocks = list(range(self._deepest() + 1))
            options = dict(norm=True, stop_early=True, output_fmt='NCHW', intermediates_only=True)
            found = self.network.forward_intermediates(pictures, indices=blocks, **options)
        else:
            found = self.network(pictures).feature_maps
        for place, tensor in zip(self.maps.values(), found, strict=False):
            place(tensor)
        return self.map(found[-1])

    def _deepest(self) -> int:
        """Return the last block whose map is tapped; the last of all where none is, or ``map``."""
        tapped = [int(number) for number, place in self.maps.items() if place._forward_hooks]
        return max(tapped) if tapped and not self.map._forward_hooks else len(self.maps) - 1

    def load_teacher(self, path: str | Path, key: str = 'model.teacher.checkpoint') -> tuple[int, int]:
        """Load a file, strictly, as :meth:`FoundationTeacher.load_teacher`; for transformers, that of its folder."""
        where = f'{key}={str(path)!r}'
        if self.folder is not None:
            return self._load_folder(Path(path), where)
        given = state_dict_of(read_checkpoint(path), path)
        known = self.network.state_dict().keys()
        apart = {name for name in given if name.startswith(('head.', 'fc.', 'classifier.')) and name not in known}
        apart |= {name for name in given if name.startswith(self.ignore)}
        state = {name: value for name, value in given.items() if name not in apart}
        loaded, _ = load_strictly(self.network, state, None, where)
        return loaded, len(given) - len(state)

    def _load_folder(self, path: Path, where: str) -> tuple[int, int]:
        if not path.name.endswith(('.safetensors', INDEX)) or path.resolve().parent != Path(str(self.folder)).resolve():
            raise ValueError(f'{where}: give the model.safetensors beside the config.json of {self.source!r}.')
        # transformers renames entries as it reads them.
        options = dict(config=self.network.config, local_files_only=True, use_safetensors=True)
        read, told = type(self.network).from_pretrained(self.folder, **options, output_loading_info=True)
        wrong = [*told['missing_keys'], *told['unexpected_keys'], *told.get('mismatched_keys', ())]
        if wrong:
            raise ValueError(f'{where} does not fit the network of its config.json: {some(wrong, 6)}.')
        loaded, _ = load_strictly(self.network, read.state_dict(), None, where)
        return loaded, 0


_OWN = (
    "For DINO, MoCo v3, MAE, DINOv2 and DINOv3 no library is needed: name the model, e.g. model='dinov2_vits14', and "
    'give the original, timm or transformers file.'
)


def _imported(library: str, model: str) -> Any:
    try:
        return importlib.import_module(library)
    except Exception as error:  # a torchvision that does not fit torch raises a RuntimeError
        install = '--no-deps timm' if library == 'timm' else library
        raise ValueError(
            f'model={model!r}: {library} could not be imported ({_first_line(error)}). Install it with pip install '
            f'{install}; timm needs the torchvision of this torch too, and another torch breaks mmcv. {_OWN}'
        ) from error


def _of_timm(timm: Any, name: str) -> tuple[Any, int, int, dict[str, Any]]:
    try:
        network = timm.create_model(name, pretrained=False, num_classes=0, dynamic_img_size=True)
    except TypeError:  # a convolutional network takes any size as it is
        network = timm.create_model(name, pretrained=False, num_classes=0)
        if hasattr(network, 'patch_embed'):
            raise
    data = timm.data.resolve_model_data_config(network)
    pixels = {key: [255 * value for value in data[key]] for key in ('mean', 'std')}
    # Transformers take whole patches, or windows of them.
    whole = max(stage['reduction'] for stage in network.feature_info) if hasattr(network, 'patch_embed') else 1
    return network, len(network.feature_info), int(whole), dict(pixels, bgr_to_rgb=True)


def _of_transformers(transformers: Any, folder: str) -> tuple[Any, int, int, None]:
    if not (Path(folder) / 'config.json').is_file():
        raise FileNotFoundError(f'{folder!r} is no folder with a config.json')
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    stages = list(getattr(config, 'stage_names', ()))
    config.out_features = stages[1:]  # without the stem
    network = transformers.AutoBackbone.from_config(config)
    return network, len(stages) - 1, int(getattr(config, 'patch_size', 1)), None


def _first_line(error: BaseException) -> str:
    return str(error).strip().split('\n')[0][:200] or type(error).__name__
