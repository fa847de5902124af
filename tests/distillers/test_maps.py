"""Methods that compare positions refuse what has none."""

import pytest
import torch

from mmdistill_dense.registry import DISTILLERS


@pytest.mark.parametrize('name', ['AT', 'CWD', 'IFVD', 'SKD'])
def test_scores_of_rois_are_refused_at_setup(name):
    distiller = DISTILLERS.get(name)('roi_head.bbox_head.fc_cls')
    distiller.name = 'mine'
    scores = {'roi_head.bbox_head.fc_cls': [torch.Size((1, 81))]}
    with pytest.raises(ValueError, match=r'distillers\.mine: roi_head.* gives \(81,\) .* no map \(C, H, W\)'):
        distiller.setup(scores, scores)
