"""PCD on the map of a foundation model, before labels or beside them; random pixels are the keys.

`center`, because the vectors of such a map share a large mean. Untested here.
"""

# fits: maps
distillers = dict(
    pcd=dict(
        type='PCD',
        student_tap='backbone[-1]',
        teacher_tap='map',
        queue_size='auto',
        head=dict(type='mlp2', hidden=2048),
        view_pairing='same',
        center=True,
    )
)
