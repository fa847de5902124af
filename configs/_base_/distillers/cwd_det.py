"""CWD on the first four levels of the neck: weight 5 at temperature 1, the authors' RetinaNet (mmdetection-distiller).

Other code weighs all five levels by 10 (mmrazor's Faster R-CNN).
"""

# fits: det
distillers = dict(cwd=dict(type='CWD', student_tap='neck[:4]', temperature=1.0, loss_weight=5.0))
