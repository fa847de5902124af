"""Readers of label files, one a format: each finds its files below a folder, and gives what they hold as COCO lists."""
