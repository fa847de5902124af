"""Registries of the package, children of mmengine's.

Because each child has the scope ``mmdistill_dense`` and knows its rooms, ``type='mmdistill_dense.X'`` works in any
config without ``custom_imports``. ``DISTILLERS`` has no parent: distillers are looked up here but constructed in the
student's default scope, so that they can build parts of mmseg or mmdet by their short names.
"""

import importlib
from collections.abc import Mapping
from typing import Any

from mmengine import registry as of_mmengine
from mmengine.registry import Registry

from mmdistill_dense.utils.version import removed


def kind_of(registry: Registry, option: Any) -> Any:
    """Return what the ``type`` of an option stands for, a class or a function; ``None`` for an unknown name."""
    kind = option.get('type') if isinstance(option, Mapping) else None
    return registry.get(kind) if isinstance(kind, str) else kind


def class_of(option: Mapping[str, Any], scope: str | None) -> Any:
    """Return the class that the ``type`` of an option names, ``None`` for an unknown one."""
    with of_mmengine.MODELS.switch_scope_and_registry(scope) as registry:
        return kind_of(registry, option)


def derives(option: Mapping[str, Any], scope: str | None, name: str) -> bool:
    """Tell whether an option's class, or one of its bases, has this name."""
    return any(base.__name__ == name for base in getattr(class_of(option, scope), '__mro__', ()))


class _ByName(Registry):
    """A registry that imports a file when a name of it is asked for.

    Dumped configs put its module before a name, perhaps one of an older version: the name alone counts.
    """

    def load(self, name: str) -> None:
        """Import the file of a name, if it is one of ours; a face does that when it is asked for the name."""
        getattr(importlib.import_module(self._locations[0]), name, None)

    def _register_module(self, module: Any, module_name: Any = None, force: bool = False) -> None:
        """Register a class; one of the user under a shipped name, which came first, stays."""
        name = module_name if isinstance(module_name, str) else module.__name__
        is_own = f'{module.__module__}.'.startswith('mmdistill_dense.')
        if force or not is_own or name not in self._module_dict:
            super()._register_module(module, module_name, force)

    def get(self, key: str) -> Any:
        """Return a class by its name."""
        name = key.rpartition('.')[2]
        self.import_from_location()
        self.load(name)
        if name not in self._module_dict and (message := removed(name)):
            raise KeyError(message)
        return super().get(name if name in self._module_dict else key)


class _Child(_ByName):
    """A child of a registry; ``more`` are subpackages that are searched if ``room`` lacks the name."""

    def __init__(self, parent: Registry, room: str, *more: str) -> None:
        super().__init__(parent.name, parent=parent, scope='mmdistill_dense', locations=[f'mmdistill_dense.{room}'])
        self._more = [f'mmdistill_dense.{path}' for path in more]

    def load(self, name: str) -> None:
        """Import the file of a name, else one room after the other until the name is there."""
        super().load(name)
        while self._more and name not in self._module_dict:
            importlib.import_module(self._more.pop(0))


class _Methods(_ByName):
    """The distillers, one file each; all are imported for the list of all."""

    @property
    def module_dict(self) -> dict[str, Any]:
        """All classes by their names."""
        for name in importlib.import_module(self._locations[0]).__all__:
            self.load(name)
        return super().module_dict


MODELS = _Child(of_mmengine.MODELS, 'model', 'foundation.foundation_teacher', 'pretrain')
DATASETS = _Child(of_mmengine.DATASETS, 'datasets', 'unlabelled.pictures')
TRANSFORMS = _Child(of_mmengine.TRANSFORMS, 'datasets', 'unlabelled.pictures', 'pretrain.views')
HOOKS = _Child(of_mmengine.HOOKS, 'engine', 'unlabelled.stream')
OPTIMIZERS = _Child(of_mmengine.OPTIMIZERS, 'engine')
OPTIM_WRAPPER_CONSTRUCTORS = _Child(of_mmengine.OPTIM_WRAPPER_CONSTRUCTORS, 'engine')
MODEL_WRAPPERS = _Child(of_mmengine.MODEL_WRAPPERS, 'engine')
DISTILLERS = _Methods('distiller', scope='mmdistill_dense', locations=['mmdistill_dense.distillers'])
# What a model adds to its training step besides the distillers, see `model.distill_model.StepPlugin`.
STEP_PLUGINS = Registry('extra', scope='mmdistill_dense', locations=['mmdistill_dense.unlabelled.step'])
EXTRAS = STEP_PLUGINS  # its name until 0.3
