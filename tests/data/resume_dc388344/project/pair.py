"""Student and teacher: their configs, and beside `cfg` what the data change in them."""

# pair: encoderdecoder_encoder_decoder
model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='FOLDER/net.py', data_preprocessor=dict(size=(64, 64))),
    teacher=dict(
        cfg='FOLDER/net.py',
        checkpoint='{{ fileDirname }}/work/teacher/iter_40.pth',
        data_preprocessor=dict(size=(64, 64)),
    ),
)
