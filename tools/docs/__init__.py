"""Writes this repository's own tables: methods, metafiles, published results."""
