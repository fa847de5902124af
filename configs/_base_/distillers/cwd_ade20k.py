"""CWD on ADE20K's class scores: weight 10 at temperature 1, the second author's config (mmsegmentation-distiller)."""

# fits: data ade20k
distillers = dict(cwd=dict(type='CWD', temperature=1.0, loss_weight=10.0))
