# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""What a runner takes from a config: hooks and optimisers."""
