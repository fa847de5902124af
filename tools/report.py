"""python tools/report.py WORK_DIR... [--control DIR] [--out report.html] [--pictures N] [--metric NAME]"""

from mmdistill_dense.apps.report.cli import main

if __name__ == '__main__':
    main()
