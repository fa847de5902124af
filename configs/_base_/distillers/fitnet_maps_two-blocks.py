"""FitNet on the maps of the last two of 12 blocks: the second distillation method of lightly-train."""

# fits: maps, variant two-blocks
distillers = dict(
    fitnet=dict(type='FitNet', student_tap=[('backbone[-1]', 0.5)] * 2, teacher_tap=['maps.10', 'maps.11'])
)
