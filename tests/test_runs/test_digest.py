# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import hashlib

from autonl_mm.runs.digest import digest


def test_of_a_file_and_of_a_folder(tmp_path):
    first, second = tmp_path / 'a.bin', tmp_path / 'sub/b.bin'
    second.parent.mkdir()
    first.write_bytes(b'1' * (2**20 + 1))
    second.write_bytes(b'2')
    assert digest(first) == hashlib.sha256(first.read_bytes()).hexdigest()
    assert digest(tmp_path) == hashlib.sha256(
        first.read_bytes() + second.read_bytes()).hexdigest()
