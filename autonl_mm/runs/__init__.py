# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Hygiene of training runs, for any OpenMMLab project: nothing here knows AutoNL.

Safe checkpoints, resuming, locks, atomic files, random states, checks of configs and
data, and the hooks for these.
"""
