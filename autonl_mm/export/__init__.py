# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Export of task models to files of engines, and running of these."""
