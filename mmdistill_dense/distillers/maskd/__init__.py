"""MasKD: receptive tokens, learned on the teacher before training and stored in files, mask the features."""

from mmdistill_dense.distillers.maskd.maskd import MasKD, ready_distiller
from mmdistill_dense.distillers.maskd.token_files import read_tokens, write_tokens

__all__ = ['MasKD', 'read_tokens', 'ready_distiller', 'write_tokens']
