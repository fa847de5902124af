"""What a process imports from which others are forked: the packages that take seconds each."""
# ruff: noqa: F401

import mmdet.datasets
import mmdet.models
import mmseg.datasets
import mmseg.models
import mmseg.visualization
import torch._dynamo

import mmdistill_dense.engine
import mmdistill_dense.model.distill_model
import tests.toys
