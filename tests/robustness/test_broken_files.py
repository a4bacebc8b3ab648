# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Files that are broken, or made to do harm, end in the documented errors, at once.

A failure prints the seed with which it can be repeated.
"""
import json
import os
import re
import time
from pathlib import Path

import pytest
import torch
from archives import DIFFERENT, REFUSED, pack, read_by_torch, read_by_zipfile
from mmpretrain.models import ImageClassifier

from autonl_mm import ArchSpec
from autonl_mm.arch import AUTONL_S, resolve_arch
from autonl_mm.cost import LatencyTable
from autonl_mm.deploy import load
from autonl_mm.export import export
from autonl_mm.export.engines import ENGINES, Settings
from autonl_mm.export.engines.onnxruntime import KEY
from autonl_mm.measure.memory import _status
from autonl_mm.runs.checkpoints import (
    BrokenCheckpointError,
    UnsafeCheckpointError,
    check_file,
    load_checkpoint,
)
from autonl_mm.runs.scalars import read_scalars
from autonl_mm.runs.text_files import MAX_SIZE

COUNT = int(os.environ.get('ROBUSTNESS_COUNT', 60))
SECONDS = 5
MEMORY = 2**30  # bytes
durations = []  # seconds of each reading of a test


@pytest.fixture(autouse=True)
def bounds(record_property):
    """What a test took in time and, beyond what it started with, in memory."""
    durations.clear()
    Path('/proc/self/clear_refs').write_text('5')  # the peak from here on
    before = _status('VmRSS')
    yield
    memory = _status('VmHWM') - before
    if durations:
        record_property('figure', f'{len(durations)} readings, at most '
                        f'{max(durations):.2f} s and {memory / 2**20:.0f} MiB')
    assert memory < MEMORY


def mutate(data, rng):
    """Some bytes changed, cut out, doubled or made zero."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        start = rng.randrange(len(data))
        end = min(len(data), start + rng.choice((1, 4, 64, 512)))
        how = rng.randrange(4)
        if how == 0:
            data[start] ^= 1 << rng.randrange(8)
        elif how == 1:
            data[start:end] = bytes(end - start)
        elif how == 2:
            data[end:end] = data[start:end]
        else:
            del data[start:min(end, len(data) - 1)]
    return bytes(data)


def timed(function, *args, errors):
    """The result, or None for an error of the given classes."""
    start = time.time()
    try:
        return function(*args)
    except errors as e:
        assert len(str(e)) < 2_000
    finally:
        durations.append(time.time() - start)
        assert durations[-1] < SECONDS


def test_checkpoints(tmp_path, rng):
    """What loads is what was saved, to the bit."""
    state = dict(meta=dict(epoch=3), state_dict={
        f'layer{i}.weight': torch.arange(300.) + i for i in range(4)})
    path = tmp_path / 'epoch_3.pth'
    torch.save(state, path)
    data, refused = path.read_bytes(), 0
    for _ in range(COUNT):
        path.write_bytes(mutate(data, rng))
        loaded = timed(load_checkpoint, path,
                       errors=(BrokenCheckpointError, UnsafeCheckpointError))
        if loaded is None:
            refused += 1
            continue
        assert loaded['meta'] == state['meta']
        for name, value in state['state_dict'].items():
            assert torch.equal(loaded['state_dict'][name], value)
    assert refused > COUNT // 2


def mutate_headers(data, rng):
    """Fields of an archive's headers changed, or copied from other headers."""
    headers = [match.start() for match in re.finditer(b'PK[\1-\7][\2-\10]', data)]
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2))):
        width = rng.choice((1, 2, 4))
        start = rng.choice(headers) + rng.randrange(4, 56)
        other = rng.choice(headers) + rng.randrange(4, 56)
        data[start:start + width] = rng.choice((
            bytes(width), b'\xff' * width, data[other:other + width],
            rng.choice(headers).to_bytes(4, 'little')[:width]))
    return bytes(data)


def test_archives_of_two_readings(tmp_path, rng):
    """What torch's reader finds in an accepted archive is what was verified."""
    path = tmp_path / 'a.pth'
    torch.save(torch.arange(9.), path)
    plain = [path.read_bytes(), pack()]
    odd = [make() for make in (DIFFERENT | REFUSED).values()]
    accepted = 0
    for _ in range(5 * COUNT):
        path.write_bytes(mutate_headers(rng.choice(rng.choice((plain, odd))), rng))
        if not timed(check_file, path, errors=BrokenCheckpointError):
            continue
        accepted += 1
        found = timed(read_by_torch, path, errors=(RuntimeError, UnicodeDecodeError))
        assert found is None or found == read_by_zipfile(path)
    assert accepted > COUNT // 10


def test_notations(tmp_path, rng):
    path = tmp_path / 'arch.txt'
    text = AUTONL_S.to_text().encode()
    for _ in range(COUNT):
        path.write_bytes(mutate(text, rng))
        spec = timed(ArchSpec.from_file, path, errors=ValueError)
        if spec is not None:
            assert ArchSpec.from_text(spec.to_text()) == spec


def test_latency_tables(tmp_path, rng):
    path = tmp_path / 'table.json'
    text = json.dumps(dict(latency_ms={f'{i}x{i} stem32': 0.5 + i
                                       for i in range(9)})).encode()
    for _ in range(COUNT):
        path.write_bytes(mutate(text, rng))
        timed(LatencyTable.from_file, path, errors=ValueError)


@pytest.mark.parametrize('content', [
    '[' * 100_000, '{"latency_ms": ' * 50_000, '{"latency_ms": {"a": 1' + '0' * 9999,
    '{"latency_ms": {"a": 1' + '0' * 400 + '}}', 'null', '[]', '{}', '3', '',
    '{"latency_ms": 3}', '{"latency_ms": {"a": NaN}}', '{"latency_ms": {"a": -1}}',
    '{"latency_ms": {"a": "1"}}', '{"latency_ms": {"a": true}}'
], ids=lambda content: content[:30])
def test_odd_json(content, tmp_path):
    path = tmp_path / 'table.json'
    path.write_text(content)
    with pytest.raises(ValueError, match=r'table\.json'):
        LatencyTable.from_file(path)


def test_huge_and_odd_files(tmp_path):
    path = tmp_path / 'big'
    with open(path, 'wb') as file:
        file.truncate(MAX_SIZE + 1)
    for read in (LatencyTable.from_file, ArchSpec.from_file, resolve_arch):
        with pytest.raises(ValueError, match=r'/big'):
            read(path)
        with pytest.raises(ValueError, match=r'is a folder|not a latency table'):
            read(tmp_path)
        with pytest.raises((ValueError, FileNotFoundError), match='none'):
            read(tmp_path / 'none')


def test_bombs_of_repeats():
    """110 KB of a text that asks for five million blocks."""
    line = 'r1000_k3_s11_e1_i8_o8\n'
    start = time.time()
    with pytest.raises(ValueError, match=r'line 2 .*2000 blocks up to here'):
        ArchSpec.from_text(line * 5000)
    assert time.time() - start < 1
    assert len(ArchSpec.from_text(line).blocks) == 1000
    with pytest.raises(ValueError, match='at most 1000, got 1001'):
        ArchSpec(ArchSpec.from_text(line).blocks + ArchSpec.from_text(
            line.replace('r1000', 'r1')).blocks, stem_channels=8)


@pytest.mark.parametrize('change', [
    lambda text: '\ufeff' + text, lambda text: text.replace('\n', '\r\n'),
    lambda text: '\ufeff' + text.replace('\n', '\r'),
], ids=['mark', 'Windows', 'old Mac'])
def test_marks_and_line_ends(change, tmp_path):
    path = tmp_path / 'arch.txt'
    path.write_bytes(change(AUTONL_S.to_text()).encode())
    assert ArchSpec.from_file(path) == AUTONL_S
    assert ArchSpec.from_text(change(AUTONL_S.to_text())) == AUTONL_S
    table = tmp_path / 'table.json'
    table.write_bytes(change('{"latency_ms":\n{"a": 1}}').encode())
    assert LatencyTable.from_file(table).entries == dict(a=1)


def test_scalars_that_a_kill_cut(tmp_path, rng):
    folder = tmp_path / '20260101_000000/vis_data'
    folder.mkdir(parents=True)
    lines = [json.dumps(dict(loss=i / 3, step=i)) for i in range(1, 9)]
    text = '\n'.join([*lines, json.dumps({'accuracy/top1': 3., 'step': 1})])
    for _ in range(COUNT):
        cut = rng.randrange(1, len(text))
        (folder / 'scalars.json').write_text(text[:cut])
        train, evaluation, _ = read_scalars(tmp_path)
        assert len(train) >= min(text[:cut].count('\n'), 8)
        assert len(evaluation) == (cut == len(text))


@pytest.mark.parametrize('text', ['[1]', '3', '{}', '{"task": 1}', 'no JSON',
                                  '[' * 100_000],
                         ids=['list', 'number', 'empty', 'task', 'text', 'deep'])
def test_metadata_of_onnx_files(text, tmp_path):
    onnx = pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    shape = ['N', 3, 8, 8]
    infos = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
             for name in ('input', 'output')]
    node = onnx.helper.make_node('Relu', ['input'], ['output'])
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], 'g', infos[:1], infos[1:]),
        opset_imports=[onnx.helper.make_opsetid('', 17)], ir_version=8)
    onnx.helper.set_model_props(model, {KEY: text})
    path = tmp_path / 'model.onnx'
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=r'metadata of .*model\.onnx'):
        load(path)


@pytest.fixture(scope='module')
def onnx_file(tmp_path_factory):
    """Content of a file of a small classifier, with images of any size."""
    model = ImageClassifier(
        dict(type='autonl_mm.AutoNL', out_indices=(-1, ), arch=[
            'r1_k3_s11_e1_i16_o16', 'r1_k3_s22_e3_i16_o24_nonlocal0.25-1', 'head32']),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=32),
        neck=dict(type='GlobalAveragePooling'))
    path = tmp_path_factory.mktemp('onnx') / 'network.onnx'
    export.write_file(
        ENGINES['onnxruntime'], export.make_graph(model, ('size', )),
        Settings((1, 3, 32, 32), ('size', )), path)
    return path.read_bytes()


def test_onnx_files(onnx_file, tmp_path, rng):
    path = tmp_path / 'network.onnx'
    for _ in range(COUNT):
        path.write_bytes(mutate(onnx_file, rng))
        session = timed(load, path, errors=ValueError)
        if session is not None:
            timed(session, torch.rand(1, 3, 32, 32), errors=ValueError)
