"""How many examples a property is asked: few in each run of the tests, many in the long ones."""

import os

from hypothesis import HealthCheck, settings

SLOW = [HealthCheck.too_slow]
few = settings(max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=SLOW)
many = settings(few, max_examples=int(os.environ.get('FUZZ_EXAMPLES', 1000)))
