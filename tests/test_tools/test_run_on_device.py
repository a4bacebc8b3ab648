# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import json
import stat

import pytest
from conftest import call_main, load_tool, main_error

from autonl_mm.measure.device_table import median_times, read_table

tool = load_tool('tools/deployment/run_on_device.py')

# The ends of real outputs
OUTPUTS = dict(
    onnxruntime=('''\
Setting intra_op_num_threads to 1
Session creation time cost: 0.217932 s
First inference time cost: 196 ms
Total inference time cost: 0.49481 s
Total inference requests: 5
Average inference time cost total: 98.961997 ms
Total inference run time: 0.494854 s
Number of inferences per second: 10.104
Avg CPU usage: 11 %
Peak working set size: 271122432 bytes
Runs:5
Min Latency: 0.0958204 s
Max Latency: 0.101519 s
P50 Latency: 0.0995086 s
P90 Latency: 0.101519 s
''', 99.5086),
    onnxruntime_old=('''\
Average time cost:58.8053 ms
Total run time:58.8102 s
Min Latency is 0.0559777sec
P50 Latency is 0.0587108sec
''', 58.7108),
    litert=('''\
INFO: Initialized session in 119.515ms.
INFO: count=9 first=87112 curr=51629 min=51629 max=87112 avg=58147.4 std=11478 \
p5=51629 median=51962 p95=87112

INFO: count=1000 first=52162 curr=49785 min=49088 max=686105 avg=63743.2 std=60716 \
p5=49620 median=51891 p95=68628

INFO: Inference timings in us: Init: 119515, First inference: 87112, \
Warmup (avg): 58147.4, Inference (avg): 63743.2
''', 51.891),
    litert_old=('''\
count=50 first=2990275 curr=2913402 min=2727568 max=3189954 avg=2.95034e+06 std=109798

Inference timings in us: Init: 17187, First inference: 3512391, \
Warmup (avg): 3.51239e+06, Inference (avg): 2.95034e+06
''', 2950.34),
    mnn=('''\
MNN benchmark
Forward type: **CPU** thread=1** precision=1** sparsity=0** sparseBlockOC=1
--------> Benchmarking... loop = 20, warmup = 3
[ - ] model.mnn                   max =    1.923 ms  min =    1.402 ms  \
avg =    1.517 ms
''', 1.517),
    ncnn=('''\
loop_count = 8
num_threads = 4
powersave = 2
gpu_device = -1
cooling_down = 1
          squeezenet  min =    8.84  max =    8.89  avg =    8.87
''', 8.87),
    executorch=('''\
I 00:00:00.006277 executorch:executor_runner.cpp:214] Using method forward
I 00:00:00.118262 executorch:executor_runner.cpp:313] Model executed successfully \
20 time(s) in 96.420000 ms.
''', 4.821),
    openvino=('''\
[ INFO ] Execution Devices:['CPU']
[ INFO ] Count:            20 iterations
[ INFO ] Duration:         33.01 ms
[ INFO ] Latency:
[ INFO ]    Median:        1.52 ms
[ INFO ]    Average:       1.58 ms
''', 1.52))


@pytest.mark.parametrize('name', OUTPUTS)
def test_outputs_of_programs(name):
    text, ms = OUTPUTS[name]
    assert tool.parse_ms(text) == pytest.approx(ms)


@pytest.mark.parametrize('text, words', [
    ('', 'printed no time, but nothing'),
    ('load failed\nlayer Swish not exists', 'no time, but layer Swish not exists'),
    ('model  min = 0.00  max = 0.00  avg = 0.00', '0 ms'),
])
def test_outputs_without_a_time(text, words):
    with pytest.raises(tool.DeviceError, match=words):
        tool.parse_ms(text)


@pytest.fixture
def models(tmp_path):
    """Three empty models."""
    folder = tmp_path / 'models'
    rows = [dict(file=f'{i:04}/model.onnx', shape=[1, 3, 32, 16], key=f'block {i}')
            for i in range(3)]
    for row in rows:
        (folder / row['file']).parent.mkdir(parents=True)
        (folder / row['file']).touch()
    (folder / 'manifest.json').write_text(json.dumps(
        dict(engine='onnxruntime', cfgs={}, files=rows)))
    return folder


def program(folder, text, name='program'):
    """A program that counts its calls in ``calls``; ``$1`` is the model."""
    path = folder / name
    path.write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\n{text}\n')
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return path


def calls(folder):
    return (folder / 'calls').read_text().splitlines()


def test_a_run_continues(models, monkeypatch, tmp_path, capsys):
    """The device refuses one model, is repaired, and only this model runs again."""
    table = models / 'table.json'
    refusing = program(
        models, 'case $1 in 0001*) echo no such operator; exit 3;; esac\n'
        'echo "Median: 2.5 ms"')
    options = [models, '--rounds', 2, '--command', './program {file} {height}x{width}']
    message = main_error(monkeypatch, tool, *options)
    assert '1 of 3 models were refused' in message
    assert ('refused: 0001/model.onnx (block 1): exit status 3: no such operator'
            in capsys.readouterr().out)
    # once in a run, and the other models in two rounds
    assert len(calls(models)) == 5 and calls(models)[0] == '0000/model.onnx 32x16'
    rows = read_table(table)['files']
    assert [row['ms'] for row in rows] == [[2.5, 2.5], [], [2.5, 2.5]]
    with pytest.raises(ValueError, match=r'0001/model\.onnx has no time .*no such'):
        median_times(rows)

    refusing.write_text(refusing.read_text().replace('exit 3', 'true'))
    call_main(monkeypatch, tool, *options)
    assert len(calls(models)) == 7
    rows = read_table(table)['files']
    assert 'refused' not in rows[1]
    assert median_times(rows) == {row['file']: 2.5 for row in rows}

    call_main(monkeypatch, tool, *options)
    assert len(calls(models)) == 7


def test_nothing_is_lost_by_a_kill(models, monkeypatch):
    """Each time is in the table before the next model runs."""
    program(models, 'cp table.json seen-$(dirname $1).json 2> /dev/null\n'
            'echo "Median: 1 ms"')
    call_main(monkeypatch, tool, models, '--rounds', 1, '--command', './program {file}')
    seen = read_table(models / 'seen-0002.json')['files']
    assert [row.get('ms') for row in seen] == [[1.], [1.], None]


def fake_adb(folder, monkeypatch, text='exec sh -c "$2"'):
    """A phone in a folder; ``text`` answers ``adb shell COMMAND``."""
    program(folder, f'case $1 in shell) {text};; push) shift 2\n'
            'for last; do true; done\ncp -r "$@";; esac', 'adb')
    monkeypatch.setenv('PATH', f'{folder}:/usr/bin:/bin')


def test_a_phone(models, monkeypatch, tmp_path):
    """The engine's own program runs on copies of the models."""
    phone = tmp_path / 'phone'
    phone.mkdir()
    fake_adb(phone, monkeypatch)
    options = [models, '--runner', 'adb', '--folder', phone / 'models', '--rounds', 1]
    message = main_error(monkeypatch, tool, *options)
    assert 'onnxruntime_perf_test does not exist: copy the engine' in message
    program(models, f'cat <<E\n{OUTPUTS["onnxruntime"][0]}\nE', 'onnxruntime_perf_test')
    call_main(monkeypatch, tool, *options)
    table = read_table(models / 'table.json')
    assert [row['ms'] for row in table['files']] == [[pytest.approx(99.5086)]] * 3
    assert (phone / 'models/0002/model.onnx').exists()
    assert calls(models)[2] == '-I -s -m times -r 20 -x 1 0002/model.onnx'


def test_a_phone_that_is_unplugged(models, monkeypatch, tmp_path):
    """It is no reason to refuse models."""
    phone = tmp_path / 'phone'
    phone.mkdir()
    fake_adb(phone, monkeypatch, f'test -e {phone}/0001 && '
             '{ echo "no devices/emulators found"; exit 1; }; exec sh -c "$2"')
    program(models, f'mkdir {phone}/$(dirname $1); echo "Median: 1 ms"', 'program')
    message = main_error(
        monkeypatch, tool, models, '--runner', 'adb', '--folder', phone / 'models',
        '--command', './program {file}')
    assert 'does not answer' in message and 'no devices/emulators found' in message
    rows = read_table(models / 'table.json')['files']
    assert [row.get('ms') for row in rows] == [[1.], [1.], None]
    assert not any('refused' in row for row in rows)


def test_a_program_that_never_works(models, monkeypatch):
    message = main_error(monkeypatch, tool, models, '--command', './missing {file}')
    assert 'the first 3 models were refused' in message


@pytest.mark.parametrize('options, words', [
    (['--runner', 'usb'], "--runner is 'usb', expected local, adb, adb:SERIAL or ssh"),
    (['--runs', 0], '--runs is 0, expected at least 1'),
    (['--threads', 2], 'has settings'),
])
def test_bad_options(options, words, models, monkeypatch):
    program(models, 'echo "Median: 1 ms"')
    options = ['--command', './program {file}', *options]
    if words == 'has settings':  # of another run
        call_main(monkeypatch, tool, models, *options[:2])
    assert words in main_error(monkeypatch, tool, models, *options)


def test_missing_models(models, monkeypatch):
    (models / '0001/model.onnx').unlink()
    assert 'run measure_latency.py --for-device again' in main_error(
        monkeypatch, tool, models)
