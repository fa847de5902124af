"""Knowledge distillation for dense prediction, as a plugin of MMSegmentation and MMDetection."""

__version__ = '0.1.0'
