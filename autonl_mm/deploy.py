# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Deployment of trained models: their deploy form, and loading to predict."""
from .fold import DeployMixin, fold_norms, switch_to_deploy
from .inference import load

__all__ = ['DeployMixin', 'fold_norms', 'load', 'switch_to_deploy']
