# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Measurements, and sets of training runs for a comparison."""
