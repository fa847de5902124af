"""Readers of label files: each finds the files of its format below a folder, and gives what they hold as COCO lists."""
