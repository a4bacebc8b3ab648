# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Export of task models, and running of exported models."""
