"""Checks of the pictures without labels."""

from __future__ import annotations

from mmdistill_dense.check.context import Subject
from mmdistill_dense.check.findings import NOTE, WARNING, Finding, Findings
from mmdistill_dense.check.unlabelled_facts import FEW_LABELS, UNSURE, what_is_labelled
from mmdistill_dense.engine.unlabelled_stream import FEW
from mmdistill_dense.model.pseudo_labels import KEY as PSEUDO
from mmdistill_dense.model.unlabelled import KEY
from mmdistill_dense.utils.messages import some


def few(subject: Subject) -> Findings:
    """Check that there are more pictures than a few steps take, and note what the pipeline leaves out."""
    facts = subject.unlabelled
    if facts is None:
        if subject.data_problem and (subject.config.get('model') or {}).get('unlabelled'):
            yield Finding(NOTE, 'unlabelled', f'{KEY} was not read, because the labelled pictures were not.')
        return
    if facts.pictures < FEW * facts.step:
        message = f'{KEY}: {facts.pictures} pictures are few for {facts.step} a step.'
        yield Finding(WARNING, 'few', message, f'Lower {KEY}.ratio, or add pictures.')
    left_out = [name for name in facts.left_out if not name.startswith('Load')]  # that labels are not read is no news
    if left_out:
        yield Finding(NOTE, 'pipeline', f'{KEY}.pipeline leaves out {", ".join(left_out)}, which need labels.')


def alike(subject: Subject) -> Findings:
    """Find pictures that look like one of validation or test, though their files differ."""
    facts = subject.unlabelled
    if facts is not None and facts.alike:
        yield Finding(
            WARNING,
            'alike',
            f'{KEY}: {len(facts.alike)} pictures look like one of validation or test, as after another compression: '
            f'{some(f"{own} ~ {other}" for own, other in facts.alike)}.',
            'If they are the same pictures, take them out: results on them would tell nothing about new ones.',
        )


def unsure(subject: Subject) -> Findings:
    """Check that the teachers are about as sure on these pictures as on labelled ones."""
    for one in subject.unlabelled.confidence if subject.unlabelled is not None else []:
        if one.unlabelled < UNSURE * one.labelled:
            yield Finding(
                WARNING,
                'unsure',
                f'{one.key} is less sure on pictures without labels ({one.unlabelled:.2f}) than on labelled ones '
                f'({one.labelled:.2f}): they may show something else.',
                'What such a teacher says about them may be wrong: look at some of them.',
            )


def few_labels(subject: Subject) -> Findings:
    """Check that a teacher that labels pictures is sure of more than a little."""
    found = subject.unlabelled.pseudo if subject.unlabelled is not None else None
    if found is not None and found < FEW_LABELS:
        yield Finding(
            WARNING,
            'few_labels',
            f'{PSEUDO}: the teacher labels {found:.1%} of the {what_is_labelled(subject)}, so its labels teach next to '
            'nothing.',
            f'Lower {PSEUDO}.threshold, or leave {PSEUDO} out: the distillers need no threshold.',
        )
