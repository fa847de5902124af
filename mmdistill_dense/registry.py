"""Registries of the package, children of mmengine's.

Because each child has the scope ``mmdistill_dense`` and names its ``locations``, ``type='mmdistill_dense.X'`` works in
any config without ``custom_imports``. ``DISTILLERS`` is a root of its own: distillers are looked up here but
constructed in the student's default scope, so that they can build parts of mmseg or mmdet by their short names.
"""

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODEL_WRAPPERS as MMENGINE_MODEL_WRAPPERS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry


def _child(parent: Registry, location: str) -> Registry:
    return Registry(parent.name, parent=parent, scope='mmdistill_dense', locations=[f'mmdistill_dense.{location}'])


MODELS = _child(MMENGINE_MODELS, 'model')
DATASETS = _child(MMENGINE_DATASETS, 'datasets')
TRANSFORMS = _child(MMENGINE_TRANSFORMS, 'datasets')
HOOKS = _child(MMENGINE_HOOKS, 'engine')
MODEL_WRAPPERS = _child(MMENGINE_MODEL_WRAPPERS, 'engine')
DISTILLERS = Registry('distiller', scope='mmdistill_dense', locations=['mmdistill_dense.distillers'])
