"""The shared case for methods whose own test file looks at their formulas."""

from tests.distillers.case import DistillerCase


class TestAfDCD(DistillerCase):
    option = dict(type='AfDCD', pool_size=0)


class TestAfDCDEnhanced(DistillerCase):
    option = dict(type='AfDCD', projector='enhanced', patch_size=None, mask=dict(type='centre'))
