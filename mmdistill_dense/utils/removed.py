"""What earlier versions had: a name, and what to do instead. ``docs/removed.md`` gives the reasons with figures."""

# Commands and classes by their name, options as `run --hours`, keys of configs and suites as `accelerate.stream`.
REMOVED: dict[str, str] = {
    'pseudo-labels': 'let the distillers teach on the pictures, by model.unlabelled.',
    'model.unlabelled.pseudo': 'leave it out: the distillers teach on these pictures without a threshold.',
    'model.unlabelled.strong': 'leave it out: teacher and student see the same picture.',
}


def removed(*names: str) -> str:
    """Return what to do instead of the first of these names that an earlier version had; an empty string for none."""
    return next((f'{name} has left: {REMOVED[name]} (docs/removed.md)' for name in names if name in REMOVED), '')
