"""MasKD: receptive tokens, learned on the teacher before training and stored in files, mask the features."""

from typing import TYPE_CHECKING

from mmdistill_dense.utils.lazy import import_lazily

if TYPE_CHECKING:
    from mmdistill_dense.distillers.maskd.maskd import MasKD
    from mmdistill_dense.distillers.maskd.token_files import read_tokens, write_tokens

__all__ = ['MasKD', 'read_tokens', 'write_tokens']
import_lazily(__name__, __file__)
