# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Time, memory and MACs of networks, and synthetic inputs to measure them."""
