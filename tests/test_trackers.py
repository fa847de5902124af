"""The blocks of docs/trackers.md: a distilled run writes its values to each tracker whose package is installed."""

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from mmengine.registry import VISBACKENDS
from mmengine.visualization import BaseVisBackend

from tests import toys
from tests.docs_blocks import blocks

PACKAGES = {'TensorboardVisBackend': 'tensorboard', 'WandbVisBackend': 'wandb', 'MLflowVisBackend': 'mlflow'}
WRITTEN = {'mlflow': 'mlflow.db', 'tensorboard': '*/vis_data/events.*', 'wandb': '*/vis_data/wandb/*/*.wandb'}


def backends(package: str) -> list[dict[str, Any]]:
    """The list that the page tells a reader to paste."""
    texts = [block.text for block in blocks('python') if block.guide.name == 'trackers.md']
    found = []
    for text in texts:
        names: dict[str, Any] = {}
        exec(compile(ast.parse(text), 'trackers.md', 'exec'), names)
        found.append(names['visualizer']['vis_backends'])
    (own,) = [one for one in found if PACKAGES[one[-1]['type']] == package]
    return own


@pytest.mark.parametrize('package', PACKAGES.values())
def test_a_run_is_tracked_or_the_missing_package_is_named(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('WANDB_MODE', 'offline')
    teacher = toys.seg_net('fcn', allow_random=True)
    model = toys.model_config(toys.seg_net('fcn'), teacher, dict(kd=dict(type='LogitKD')))
    visualizer = dict(type='SegLocalVisualizer', vis_backends=backends(package))  # the type is the base's
    config = toys.run_config(tmp_path, model, iters=2, visualizer=visualizer)
    if find_spec(package) is None:
        with pytest.raises(ImportError, match=f'pip install {package}'):
            toys.train(tmp_path, config)
        return
    toys.train(tmp_path, config)
    assert list(tmp_path.glob('*/vis_data/scalars.json'))
    assert list(tmp_path.glob(WRITTEN[package]))
    if package == 'tensorboard':
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        (folder,) = tmp_path.glob('*/vis_data')
        events = EventAccumulator(str(folder))
        events.Reload()
        assert {'distill.kd.loss_kd', 'distill.kd.share', 'loss'} <= set(events.Tags()['scalars'])


CALLS: list[tuple[dict[str, Any], int]] = []  # what the last run wrote, with the iteration that W&B would draw it at


@VISBACKENDS.register_module()
class CountingBackend(BaseVisBackend):
    """As mmengine's backend for W&B: it drops ``step``; a value without ``iter`` stands at the last one given."""

    last = 0

    def _init_env(self) -> None:
        pass

    @property
    def experiment(self) -> None:
        return None

    def add_scalars(self, scalar_dict: dict[str, Any], step: int = 0, *rest: Any, **kwargs: Any) -> None:
        CountingBackend.last = scalar_dict.get('iter', self.last)
        CALLS.append((dict(scalar_dict, at=self.last), step))

    def add_image(self, name: str, image: Any, step: int = 0, *rest: Any, **kwargs: Any) -> None:
        CALLS.append(({name: image, 'at': self.last}, step))


def test_a_tracker_that_drops_the_step_draws_all_at_their_iteration(tmp_path: Path) -> None:
    """The training logs rarely: what a balanced method measures cannot lean on its iteration."""
    distillers = dict(fit=dict(type='FitNet', student_tap='backbone[3]', align='conv', balance=1.0))
    CALLS.clear()
    toys.train(
        tmp_path,
        toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), distillers),
        iters=4,
        default_hooks=dict(logger=dict(interval=100)),
        visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend'), dict(type='CountingBackend')]),
    )
    assert [step for values, step in CALLS if 'distill.fit.ratio' in values]
    assert all(values['at'] == step for values, step in CALLS)
