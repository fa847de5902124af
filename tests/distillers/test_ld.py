"""LD: mmdet's own head as the measure, regions, normalisation over processes, pairs that are refused."""

import pytest
import torch

from tests.distillers.steps import divergence
from tests.distillers.steps_on_heads import LD_EDGES, LD_SCORES, LD_STRIDES, ld_distiller, ld_maps
from tests.distillers.ways import build_head, head_config


def test_main_region_equals_mmdets_own_head() -> None:
    student, teacher, samples = ld_maps()
    kl = dict(type='KnowledgeDistillationKLDivLoss', loss_weight=0.25, T=10)
    head_losses = dict(loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True), loss_bbox=dict(type='GIoULoss'))
    head = build_head(dict(head_config(6, 6, list(LD_STRIDES)), type='LDHead'), loss_ld=kl, **head_losses)
    targets = [sample.gt_instances for sample in samples], [sample.metainfo for sample in samples]
    as_float = [[x.float() for x in maps] for maps in (student[LD_SCORES], student[LD_EDGES], teacher[LD_EDGES])]
    expected = sum(head.loss_by_feat(*as_float[:2], *targets, as_float[2])['loss_ld'])
    assert expected > 0.1
    actual = ld_distiller()(student, teacher, samples)['loss_ld']
    torch.testing.assert_close(actual.float(), expected, rtol=1e-4, atol=0)


def _rows(maps: list[torch.Tensor]) -> list[torch.Tensor]:
    """Of each level: (B, H W, C)."""
    return [x.permute(0, 2, 3, 1).reshape(len(x), -1, x.shape[1]) for x in maps]


def _divergence(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> float:
    return temperature**2 * divergence(student.tolist(), teacher.tolist(), temperature) / len(student)


@pytest.mark.parametrize('reduction', ['sum', 'mean'])
def test_every_term_equals_loops_over_the_anchors(reduction: str) -> None:
    student, teacher, samples = ld_maps()
    distiller = ld_distiller(
        reduction=reduction, main_weight=0.3, valuable_weight=0.7, class_weight=2.0, temperature=5.0
    )
    regions = distiller.regions([x.shape[2:] for x in student[LD_SCORES]], samples, torch.device('cpu'))
    main = valuable = classes = quality = 0.0
    s_scores, t_scores, s_edges, t_edges = (_rows(m[tap]) for tap in (LD_SCORES, LD_EDGES) for m in (student, teacher))
    for level, (positive, weights) in enumerate(zip(*regions, strict=True)):
        terms = []
        for b, a in positive.nonzero().tolist():
            q = s_scores[level][b, a].sigmoid().max()
            quality += q
            s, t = (x[level][b, a].view(4, -1) for x in (s_edges, t_edges))
            main += sum(q / 4 * _divergence(s[e], t[e], 5.0) for e in range(4))
            terms.append(_divergence(s_scores[level][b, a], t_scores[level][b, a], 2.0))
        classes += sum(terms) / max(len(terms), 1)
        for b, a in weights.nonzero().tolist():
            s, t = (x[level][b, a].view(4, -1) for x in (s_edges, t_edges))
            valuable += sum(weights[b, a] / 16 * _divergence(s[e], t[e], 5.0) for e in range(4))
    scale = 1 if reduction == 'sum' else 1 / max(quality, 1)
    assert quality > 2
    actual = distiller(student, teacher, samples)
    expected = dict(loss_ld=0.3 * scale * main, loss_vlr=0.7 * scale * valuable, loss_kd=2.0 * classes)
    assert set(actual) == set(expected)
    for name, value in expected.items():
        assert float(actual[name]) == pytest.approx(float(value), rel=1e-5, abs=0)
