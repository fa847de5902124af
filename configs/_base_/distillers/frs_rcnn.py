"""FRS for two-stage detectors: neck and the RPN's scores, weights and warm-up of the authors' code (duzhixing/FRS)."""

# fits: pair rcnn
distillers = dict(
    frs=dict(
        type='FRS',
        student_tap=['neck', 'rpn_head[0]'],
        feature_weight=0.002,
        class_weight=0.1,
        schedule=dict(warmup=500),
    )
)
