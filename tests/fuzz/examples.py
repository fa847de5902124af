"""How many examples a property is asked: few in each run of the tests, many in the long ones."""

import os
from typing import Any

from hypothesis import HealthCheck, settings

FEW, MANY = 30, 1000
_COMMON: dict[str, Any] = dict(
    deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
few = settings(max_examples=FEW, **_COMMON)
many = settings(max_examples=int(os.environ.get('FUZZ_EXAMPLES', MANY)), **_COMMON)
