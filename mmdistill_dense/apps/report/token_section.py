"""The section of a report that shows the masks of learned tokens (MasKD, FreeKD)."""

from functools import partial
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope

from mmdistill_dense.apps.inspect.drawing import image_of
from mmdistill_dense.apps.inspect.token_masks import draw_mask, masks_of_sample
from mmdistill_dense.apps.report.predictions import scenes_of
from mmdistill_dense.apps.report.runs import Comparison, TrainedRun
from mmdistill_dense.apps.report.section import Missing, Section, Strip, panel
from mmdistill_dense.distillers.maskd.token_distiller import TokenDistiller
from mmdistill_dense.registry import DISTILLERS, MODELS, kind_of
from mmdistill_dense.weights.strict_load import read_checkpoint


def token_section(comparison: Comparison, data: Config | None = None) -> Section:
    """Return the masks of each method that has tokens, over the first picture of the test set; perhaps without any."""
    note = 'Each token in a column, each map of the teacher in a row; yellow is a mask of 1, violet of 0.'
    section = Section('tokens', 'Masks of the tokens', note)
    for run in comparison.first_runs:
        kinds = (kind_of(DISTILLERS, option) for option in run.distillers.values())
        if any(isinstance(kind, type) and issubclass(kind, TokenDistiller) for kind in kinds):
            section.attempt(partial(_strips, run, data or run.config))
    return section


def _strips(run: TrainedRun, data: Config) -> list[Strip]:
    """Return a strip for each map: the picture, and the mask of each token over it."""
    with DefaultScope.overwrite_default_scope(run.config.get('default_scope') or 'mmengine'):
        model: Any = MODELS.build(ConfigDict(run.model))
    assert run.checkpoint is not None, 'a first run has one'
    state = read_checkpoint(run.checkpoint).get('distillers')
    if state is None:
        raise Missing(f'No masks of {run.title}: its checkpoint holds the student alone (keep: weights of its suite).')
    model.distillers.load_state_dict(state, strict=False)
    model.eval()  # not chained: mmseg's backbones return nothing from it
    (scene, *_), _ = scenes_of(data, 1)
    picture, strips = image_of(scene.item['inputs']), list[Strip]()
    for name, distiller in model.distillers.items():
        if not isinstance(distiller, TokenDistiller):
            continue
        assert distiller.teacher is not None, 'the model sets it'
        distiller.teacher.load(next(model.parameters()))
        for title, masks in masks_of_sample(model, distiller, scene.item):
            panels = [panel(picture, 'input', f'The picture {scene.name}')]
            for number, mask in enumerate(masks):
                panels.append(panel(draw_mask(picture, mask), f'token {number}', f'Mask of token {number} at {title}'))
            strips.append(Strip(f'{run.name}, {name}: {title}', panels))
    return strips
