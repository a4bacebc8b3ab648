# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""For a config's ``custom_imports``: importing this calls ``checkpoint.install()``.

``custom_imports = dict(imports=['autonl_mm.safe_checkpoints'])`` registers
everything, and lets mmengine load checkpoints safely and write files atomically, also
in the libraries' own tools and inferencers.
"""
from autonl_mm.runs.checkpoints import install

install()
