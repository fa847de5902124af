"""The same as `mmdistill report`."""

from mmdistill_dense.__main__ import script

if __name__ == '__main__':
    script('report')
