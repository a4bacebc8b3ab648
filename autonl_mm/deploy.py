# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Deployment of trained models: their deploy form, and loading of exported models."""
from .export.engines import load
from .fold import DeployMixin, fold_norms, switch_to_deploy

__all__ = ['DeployMixin', 'fold_norms', 'load', 'switch_to_deploy']
