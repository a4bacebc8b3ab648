# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
