"""Benchmarks: losses, step, teacher, start, scale, or all of them and a page; --help tells more."""

from mmdistill_dense.analysis.benchmark import main

if __name__ == '__main__':
    main()
