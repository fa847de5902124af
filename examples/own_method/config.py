"""The method on the pair of generated pictures, whose teacher `make demo` trains."""

_base_ = __import__('mmdistill_dense').base('mmdistill_dense::_base_/recipes/toy_seg.py')
custom_imports = dict(imports=['mmdistill_dense.engine.launch', 'class_centres'], allow_failed_imports=False)
model = dict(distillers=dict(centres=dict(type='ClassCentres', loss_weight=10.0)))
work_dir = 'work_dirs/class_centres'
