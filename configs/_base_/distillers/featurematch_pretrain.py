"""FeatureMatch as pre-training, by UNIC's weights; untested with real teachers.

`head` is the adapted head of an SSLTeacher; of a foundation model tap `map`.
"""

# fits: pretrain
distillers = dict(
    featurematch=dict(
        type='FeatureMatch',
        student_tap='backbone[-1]',
        teacher_tap='head',
        cosine=0.5,
        smooth_l1=0.5,
    )
)
