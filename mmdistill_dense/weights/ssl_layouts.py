"""The names in public self-supervised checkpoints, as one table for :mod:`mmdistill_dense.pretrain.ssl_teacher`."""

from dataclasses import dataclass

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
BRANCHES = ('momentum', 'online')


@dataclass(frozen=True)
class Layout:
    """One family of checkpoints. Prefixes are without the ``module.`` that DDP puts before all names of a file."""

    backbone: str  # prefix of the backbone's entries in the branch that the method keeps (the momentum branch)
    head: str  # prefix of that branch's head
    online: tuple[str, str] | None = None  # both prefixes of the branch that is trained by gradient, if the file has it
    forms: tuple[str, ...] = ()  # known heads, as `blank_entries` writes them; none where a head depends on the run
    widths: tuple[int, ...] | None = None  # usual, from the backbone's channels to the head's output, for the trace
    top: str | None = 'state_dict'  # key of the file that holds the weights, or ``None``
    online_top: str | None = None  # the same for the online branch, where it differs
    signs: tuple[str, ...] = ()  # prefixes by which a file is recognised. Default to ``head``.
    forbids: tuple[str, ...] = ()  # prefixes that only other families with the same signs have
    ignored: tuple[str, ...] = ()  # prefixes of entries that are not used here
    activation: str = 'relu'  # the head's activation
    std: tuple[float, ...] = IMAGENET_STD  # standard deviation of the input, in RGB; the mean is the same for all

    @property
    def hidden(self) -> int | None:
        """Hidden width of the head, which is the default for a student's projector."""
        return self.widths[1] if self.widths else None

    @property
    def bias(self) -> bool | str:
        """Which linear layers of the head have biases: all (True), none (False) or the ``'hidden'`` ones."""
        layers = [kind for kind in (self.forms or ('linear',))[0].split() if kind.startswith('linear')]
        if layers[0] == 'linear':
            return False
        return True if layers[-1] == 'linear+' else 'hidden'

    def prefixes(self, branch: str) -> tuple[str, str]:
        """Return the prefixes of backbone and head in a branch."""
        return self.online if branch == 'online' and self.online else (self.backbone, self.head)


_V3 = 'linear bn act linear bn0'
_V2 = 'linear+ act linear+'
_DINO = ('linear+ act linear+ act linear+', 'linear+ bn act linear+ bn act linear+')
_TWINS = 'linear bn act linear bn act linear'
_BYOL = 'linear+ bn act linear'
_PROTOTYPES = 'linear+ bn act linear+'
_WIDE = (2048, 4096, 256)
_BARLOW = (2048, 8192, 8192, 8192)
_SIAM = (2048, 2048, 2048, 2048)
_EMA = ('momentum_encoder.', 'target_net.', 'encoder_k.')
_MM = ('backbone.', 'neck.')
_SOLO_HEADS = ('classifier.', 'momentum_classifier.', 'predictor.', 'prototypes.', 'queue', 'dino_loss_func.')
_SOLO = ('momentum_backbone.', 'momentum_projector.')

LAYOUTS: dict[str, Layout] = {
    'mocov3': Layout(
        'momentum_encoder.', 'momentum_encoder.fc.', ('base_encoder.', 'base_encoder.fc.'),
        (_V3,), _WIDE, ignored=('predictor.',),
    ),
    'mocov3_vit': Layout(
        'momentum_encoder.', 'momentum_encoder.head.', ('base_encoder.', 'base_encoder.head.'),
        ('linear bn act linear bn act linear bn0',), (768, 4096, 4096, 256), ignored=('predictor.',),
    ),
    'mocov2': Layout(
        'encoder_k.', 'encoder_k.fc.', ('encoder_q.', 'encoder_q.fc.'),
        (_V2, 'linear', 'linear+'), (2048, 2048, 128), ignored=('queue',),  # the single layers are MoCo v1's
    ),
    'dino': Layout(
        'backbone.', 'head.mlp.', ('backbone.', 'head.mlp.'), _DINO, (2048, 2048, 2048, 256),
        top='teacher', online_top='student', forbids=_SOLO, ignored=('head.last_layer.',), activation='gelu',
    ),
    'swav': Layout(
        '', 'projection_head.', None, (_PROTOTYPES,), (2048, 2048, 128),
        top=None, ignored=('prototypes.',), std=(58.14, 57.12, 57.375),  # 0.228, 0.224, 0.225
    ),
    'simsiam': Layout(
        'encoder.', 'encoder.fc.', None, ('linear bn act linear bn act linear+ bn0',), _SIAM, ignored=('predictor.',)
    ),
    'barlowtwins': Layout(
        'backbone.', 'projector.', None, (_TWINS,), _BARLOW,
        top='model', forbids=('classifier.', *_SOLO), ignored=('bn.',),
    ),
    'byol': Layout('target_encoder.', 'target_encoder.fc.', None, (_BYOL,), _WIDE, top='model'),
    'mmpretrain_mocov3': Layout(
        'momentum_encoder.module.0.', 'momentum_encoder.module.1.', _MM, (_V3,), _WIDE,
        signs=('momentum_encoder.module.1.fc0.',), ignored=('head.', 'momentum_encoder.steps'),
    ),
    'mmpretrain_byol': Layout(
        'target_net.module.0.', 'target_net.module.1.', _MM, (_BYOL,), _WIDE,
        signs=('target_net.module.1.fc0.',), ignored=('head.', 'target_net.steps'),
    ),
    'mmpretrain_mocov2': Layout(
        'encoder_k.module.0.', 'encoder_k.module.1.mlp.', ('backbone.', 'neck.mlp.'), (_V2,), (2048, 2048, 128),
        ignored=('head.', 'queue', 'encoder_k.steps'),
    ),
    'mmpretrain_simsiam': Layout(
        *_MM, None, ('linear bn act linear bn act linear bn0',), _SIAM,
        signs=('neck.fc2.', 'neck.bn2.'), forbids=_EMA, ignored=('head.',),
    ),
    'mmpretrain_barlowtwins': Layout(
        *_MM, None, (_TWINS,), _BARLOW, signs=('neck.fc2.',), forbids=('neck.bn2.', *_EMA), ignored=('head.',)
    ),
    'mmpretrain_swav': Layout(
        'backbone.', 'neck.projection_neck.', None, (_PROTOTYPES,), (2048, 2048, 128), ignored=('neck.norm.', 'head.')
    ),
    'solo': Layout('momentum_backbone.', 'momentum_projector.', ('backbone.', 'projector.'), ignored=_SOLO_HEADS),
    'solo_dino': Layout(
        'momentum_backbone.', 'momentum_head.mlp.', ('backbone.', 'head.mlp.'), activation='gelu',
        ignored=('momentum_head.last_layer.', 'head.last_layer.', *_SOLO_HEADS),
    ),
    'solo_single': Layout('backbone.', 'projector.', forbids=_SOLO, ignored=_SOLO_HEADS),
}  # fmt: skip
