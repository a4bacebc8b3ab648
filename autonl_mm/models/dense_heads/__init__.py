# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Heads that need mmdet; the package itself does not import them."""
