"""The same as `mmdistill test`."""

from mmdistill_dense.__main__ import script

if __name__ == '__main__':
    script('test')
