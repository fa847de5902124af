"""Methods that compare positions refuse what has none."""

import pytest
import torch

from mmdistill_dense.registry import DISTILLERS


@pytest.mark.parametrize(
    'name', ['AT', 'CWD', 'FeatureMatch', 'FitNet', 'IFVD', 'PKD', 'QueryMatch', 'SKD', 'TokenRelations']
)
def test_scores_of_rois_are_refused_at_setup(name):
    distiller = DISTILLERS.get(name)('roi_head.bbox_head.fc_cls')
    distiller.name = 'mine'
    scores = {'roi_head.bbox_head.fc_cls': [torch.Size((1, 81))]}
    with pytest.raises(ValueError, match=r'distillers\.mine: roi_head.* gives \(81,\) .* no map \(C, H, W\)'):
        distiller.setup(scores, scores)


@pytest.mark.parametrize('name', ['FitNet', 'PKD'])
def test_rows_of_tokens_are_refused_at_setup(name):
    distiller = DISTILLERS.get(name)('backbone')
    distiller.name = 'mine'
    tokens = {'backbone': [torch.Size((1, 100, 64))]}
    with pytest.raises(ValueError, match=r'distillers\.mine: backbone.* gives \(100, 64\) .* no map \(C, H, W\)'):
        distiller.setup(tokens, tokens)
