# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""What is done with a trained model: its deploy form, and files of other runtimes."""
from .export.engines import load
from .fold import DeployMixin, fold_norms, switch_to_deploy

__all__ = ['DeployMixin', 'fold_norms', 'load', 'switch_to_deploy']
