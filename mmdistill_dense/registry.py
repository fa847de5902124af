"""Registries of the package, children of mmengine's.

Because each child has the scope ``mmdistill_dense`` and names its ``locations``, ``type='mmdistill_dense.X'`` works in
any config without ``custom_imports``. ``DISTILLERS`` has no parent: distillers are looked up here but constructed in
the student's default scope, so that they can build parts of mmseg or mmdet by their short names.
"""

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODEL_WRAPPERS as MMENGINE_MODEL_WRAPPERS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIMIZERS as MMENGINE_OPTIMIZERS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry


def _child(parent: Registry, *locations: str) -> Registry:
    places = [f'mmdistill_dense.{location}' for location in locations]
    return Registry(parent.name, parent=parent, scope='mmdistill_dense', locations=places)


MODELS = _child(MMENGINE_MODELS, 'model', 'pretrain', 'foundation')
DATASETS = _child(MMENGINE_DATASETS, 'datasets')
TRANSFORMS = _child(MMENGINE_TRANSFORMS, 'datasets', 'pretrain')
HOOKS = _child(MMENGINE_HOOKS, 'engine', 'pretrain', 'analysis')
OPTIMIZERS = _child(MMENGINE_OPTIMIZERS, 'engine')
MODEL_WRAPPERS = _child(MMENGINE_MODEL_WRAPPERS, 'engine')
DISTILLERS = Registry('distiller', scope='mmdistill_dense', locations=['mmdistill_dense.distillers'])
