"""python tools/export_student.py CONFIG CHECKPOINT OUT [--size H W] [--backbone-only]: see --help."""

from mmdistill_dense.apps.project.steps import main_export

if __name__ == '__main__':
    main_export()
