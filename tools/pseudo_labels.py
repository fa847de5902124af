"""The same as `mmdistill pseudo-labels`."""

from mmdistill_dense.__main__ import script

if __name__ == '__main__':
    script('pseudo-labels')
