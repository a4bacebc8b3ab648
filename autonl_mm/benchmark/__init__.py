# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Measurements, and many trainings of one comparison."""
