"""Receptive tokens of MasKD: learned on the teacher before training, kept in files, found again."""

from mmdistill_dense.tokens.files import read_tokens, write_tokens
from mmdistill_dense.tokens.prepare import prepare_tokens
from mmdistill_dense.tokens.ready import ready_distiller

__all__ = ['prepare_tokens', 'read_tokens', 'ready_distiller', 'write_tokens']
