# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Hooks and optimisers, which a runner builds from a config."""
