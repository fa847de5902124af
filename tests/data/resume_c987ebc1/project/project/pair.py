"""Student and teacher: their configs, and beside `cfg` what the data change in them."""

# pair: encoderdecoder_encoder_decoder
model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='student.py', data_preprocessor=dict(size=(64, 64))),
    teacher=dict(
        cfg='teacher.py',
        checkpoint='{{ fileDirname }}/work/teacher/iter_40.pth',
        data_preprocessor=dict(size=(64, 64)),
    ),
)
