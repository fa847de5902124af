"""MGD on the map of a foundation model, as a mean, because the published factor belongs to one size; untested here."""

# fits: maps
distillers = dict(
    mgd=dict(type='MGD', student_tap='backbone[-1]', teacher_tap='map', mask_ratio=0.75, alpha=1.0, reduction='mean')
)
