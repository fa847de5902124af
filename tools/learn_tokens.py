"""The same as `mmdistill tokens`."""

from mmdistill_dense.__main__ import script

if __name__ == '__main__':
    script('tokens')
