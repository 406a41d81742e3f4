"""Optimizers, in PyTorch's conventions and by its formulas."""

from graphc.optim.adam import Adam, AdamW
from graphc.optim.optimizer import Optimizer, ParamGroup
from graphc.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "ParamGroup"]
