"""The same as `mmdistill diagnose`."""

from mmdistill_dense.__main__ import script

if __name__ == '__main__':
    script('diagnose')
