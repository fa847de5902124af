"""What earlier versions had: a name, and what to do instead. ``docs/removed.md`` gives the reasons with their figures."""

# Commands and classes by their name, options as `run --hours`, keys of configs and suites as `accelerate.stream`.
REMOVED: dict[str, str] = {}


def removed(*names: str) -> str:
    """Return what to do instead of the first of these names that an earlier version had; an empty string for none."""
    return next((f'{name} has left: {REMOVED[name]} (docs/removed.md)' for name in names if name in REMOVED), '')
