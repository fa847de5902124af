"""python tools/export_student.py CONFIG CHECKPOINT OUT [--size H W] [--backbone-only]: see --help."""

from mmdistill_dense.project.export_command import main_export

if __name__ == '__main__':
    main_export()
