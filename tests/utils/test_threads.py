"""Waiting threads on busy cores."""

from mmdistill_dense.utils.threads import SPINS, wait_briefly


def test_what_the_user_chose_stays() -> None:
    for given in ({'OMP_WAIT_POLICY': 'ACTIVE'}, {'GOMP_SPINCOUNT': '7'}):
        environment = dict(given)
        wait_briefly(environment)
        assert environment == given
    wait_briefly(environment := {})
    assert environment == {'GOMP_SPINCOUNT': SPINS}
