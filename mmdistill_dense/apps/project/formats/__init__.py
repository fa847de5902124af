"""Readers of label files. Each finds the files of its format below a folder and returns COCO lists."""
