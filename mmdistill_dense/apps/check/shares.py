"""What the gradients of a measured step say about the weights of the distillers."""

import math

from mmdistill_dense.apps.check.context import CheckContext
from mmdistill_dense.apps.inspect.gradients import BACKBONE, TASK
from mmdistill_dense.guards.findings import Findings, error, note, warning

MAX_SHARE, MIN_SHARE = 0.95, 0.005  # a distiller's share of the gradient at the backbone that is too large, too small
DOMINANT_SHARE = 0.999  # a share that is too large even at the start of training
LATER = '--cfg-options load_from=CHECKPOINT'


def judge_losses(context: CheckContext) -> Findings:
    """Check that each term is finite, as a training does in each step; not of random networks."""
    for term in context.terms if context.options.whole else ():
        if not all(map(math.isfinite, [term.value, *(pull.norm for pull in term.pulls.values())])):
            yield error(
                f'{term.name} is {term.value} with a gradient of {term.pulls[BACKBONE].norm} at the backbone.',
                'Check the labels, the weights of that term, and that the teacher is the right file.',
            )


def judge_shares(context: CheckContext) -> Findings:
    """Check that each distiller changes the backbone's gradient, and that none drowns the task's."""
    norms = {term.name: term.pulls[BACKBONE].norm for term in context.terms if BACKBONE in term.pulls}
    total = sum(norms.values())
    if not context.options.whole or not 0 < total < math.inf:
        return
    for name, distiller in context.distillers.items():
        if name in context.untaught:
            continue
        norm = sum(value for term, value in norms.items() if term.startswith(f'distill.{name}.'))
        key, share = f'model.distillers.{name}', norm / total
        if distiller.weight() == 0:
            yield note(f'{key} is off by its schedule at iteration {context.iteration}.')
        elif share == 0:
            message = f'{key} has no gradient at the backbone: it teaches the student nothing.'
            advice = 'Check that its student_tap comes after trained layers, and that its teacher_tap is not constant.'
            yield warning(message, advice)
        elif share < MIN_SHARE:
            message = f'{key} has {share:.2%} of the gradient at the backbone.'
            yield warning(message, f'Raise {key}.loss_weight, unless this is intended.')
        elif share > MAX_SHARE and norms.get(TASK):
            message = f'{key} has {share:.1%} of the gradient at the backbone, the task hardly counts.'
            # A detector's own gradients are small at first: distillers that work well have nearly all of it.
            finding = warning if share > DOMINANT_SHARE or context.started else note
            yield finding(message, f'If it stays so later ({LATER}), lower {key}.loss_weight.')
