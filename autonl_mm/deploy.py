# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Deployment of trained models: their deploy form, and loading to predict."""
from .fold import DeployMixin, fold_norms, switch_to_deploy
from .inference import ExportedModel, Predictor, load

__all__ = [
    'DeployMixin', 'ExportedModel', 'Predictor', 'fold_norms', 'load',
    'switch_to_deploy'
]
