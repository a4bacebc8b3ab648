# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The demo: what it does again and what not, interruptions, failures, the report."""
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, call_main, is_running, load_tool, main_error
from mmengine.config import Config
from mmengine.registry import TRANSFORMS, init_default_scope

demo = load_tool('tools/demo.py')
report = load_tool('tools/demo_report.py')

# What mmengine logs, with the settings that every config text has
LOG = """\
train_cfg = dict(by_epoch=True, max_epochs=12, val_interval=1)
2026/01/01 00:00:00 - mmengine - INFO - Epoch(train)  [6][125/125]  lr: 4.0e-04  \
eta: 0:02:00  time: 0.1800  data_time: 0.0080  loss: 0.9000
2026/01/01 00:00:00 - mmengine - INFO - Epoch(val) [6][4/4]    accuracy/top1: \
97.2500  data_time: 0.0900  time: 0.6200
2026/01/01 00:00:00 - mmengine - INFO - Epoch(train)  [7][ 50/125]  lr: 4.0e-04  \
eta: 0:01:50  time: 0.1800  data_time: 0.0080  loss: 0.1234
"""


@pytest.fixture(autouse=True)
def handlers():
    """Signal handlers as they were before."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(n) for n in numbers]
    yield
    for number, handler in zip(numbers, before):
        signal.signal(number, handler)


def write_step(name, text='', needs=(), **kwargs):
    """A step that adds a line to the file of its name."""
    code = f'open({name!r}, "a").write({text!r} + "\\n"); print("output of", {name!r})'
    return demo.Step(name, f'write {name}', 3, ('-c', code), needs, (name, ), **kwargs)


@pytest.fixture
def runs(tmp_path, monkeypatch, capsys):
    """A function that runs steps as the demo and returns those that were run."""
    monkeypatch.chdir(tmp_path)

    def run(steps):
        monkeypatch.setattr(demo, 'make_steps', lambda out, full: steps)
        counts = {s.name: count_lines(s.name) for s in steps}
        call_main(monkeypatch, demo, '--work-dir', 'work')
        run.output = capsys.readouterr().out
        return [s.name for s in steps if count_lines(s.name) > counts[s.name]]

    return run


def count_lines(name):
    path = Path(name)
    return len(path.read_text().splitlines()) if path.exists() else 0


# ------------------------------------------------------------------------ plan
@pytest.mark.parametrize('full', [False, True])
def test_plan(full):
    steps = demo.make_steps(Path('work'), full)
    names = [s.name for s in steps]
    assert len(set(names)) == len(names)
    assert names[-1] == 'report'
    for i, step in enumerate(steps):
        assert set(step.needs) <= set(names[:i])
        script = step.command[0]
        assert (ROOT / script).resolve().is_file()
        for argument in step.command:
            if argument.startswith('configs/'):
                assert (ROOT / argument).is_file()
            # a checkpoint is that of a training before
            for folder in re.findall(r'@\{(.+?)\}', argument):
                source, = (s for s in steps if s.folder == folder)
                assert source.metric and source.name in step.needs
    trained = {s.name for s in steps if s.metric}
    assert trained == ({'search', 'detector', 'segmentor'} if full else
                       {'classifier', 'detector', 'segmentor'})
    for step in steps:
        if step.metric:
            assert '--resume' in step.command
            assert report.METRICS[step.metric] and report.MODELS[step.name]


def test_plan_is_below_eight_minutes():
    assert demo.duration(demo.make_steps(Path('work'), False), {}) < 450


def test_options_exist():
    """Every option of a step is one of its tool."""
    common = (ROOT / 'autonl_mm/cli/launch.py').read_text() + (
        ROOT / 'autonl_mm/cli/configs.py').read_text()
    for full in (False, True):
        for step in demo.make_steps(Path('work'), full):
            text = (ROOT / step.command[0]).read_text() + common
            for option in step.command[1:]:
                if option.startswith('--'):
                    assert f"'{option}'" in text, (step.name, option)


def test_makefile_runs_it():
    text = (ROOT / 'Makefile').read_text()
    assert re.search(r'^demo: setup\n\t@?\S+ tools/demo\.py$', text, re.MULTILINE)
    assert re.search(r'^demo-full: setup\n\t@?\S+ tools/demo\.py --full$', text,
                     re.MULTILINE)


# --------------------------------------------------------------- what is done
def test_done_steps_are_skipped(runs):
    steps = [write_step('a'), write_step('b', needs=('a', )), write_step('c')]
    assert runs(steps) == ['a', 'b', 'c']
    assert 'write a' in runs.output and 'about' in runs.output
    assert '[1/3] a' in runs.output and 'done in 0:0' in runs.output
    assert 'work/report.html' in runs.output
    assert Path('work/logs/02-b.log').read_text().endswith('output of b\n')
    assert runs(steps) == []

    # a changed command, and what needs its result
    steps[0] = write_step('a', 'other')
    assert runs(steps) == ['a', 'b']
    assert runs(steps) == []
    # a lost result
    Path('b').unlink()
    assert runs(steps) == ['b']
    # a record that was not written to its end
    Path('work/steps/c.json').write_text('{"key": ')
    assert runs(steps) == ['c']


def test_two_at_a_time():
    """In their order, after what they need; what measures time runs alone."""
    data, a, b, c = (
        demo.Step(name, '', seconds, (), needs) for name, seconds, needs in (
            ('data', 2, ()), ('a', 5, ('data', )), ('b', 7, ('data', )),
            ('c', 1, ('a', ))))
    time = demo.Step('time', '', 3, (), ('a', ), alone=True)
    steps = [data, a, time, b, c]
    assert demo.startable(steps, []) == [data]
    assert demo.startable(steps[1:], [data]) == []
    assert demo.startable(steps[1:], []) == [a, b]
    assert demo.startable([time, c], [b]) == [c]
    assert demo.startable([time, c], []) == [time]
    assert demo.startable([c], [time]) == []
    # data, a beside b, c beside b, time
    assert demo.duration(steps, {}) == 2 + 7 + 3
    assert demo.duration([time, c], {b: 0.5}) == 1 + 3
    assert demo.duration([], {}) == 0


def test_steps_run_side_by_side(runs, monkeypatch):
    """Each with half of the cores; what one of them breaks, the other goes on from."""
    wait = ('import os, time; open("{0}", "a").write(os.environ["OMP_NUM_THREADS"]);'
            'end = time.time() + 60\n'
            'while not os.path.exists("{1}") and time.time() < end: time.sleep(.01)')
    steps = [demo.Step(one, '', 3, ('-c', wait.format(one, other)), (), (one, ))
             for one, other in ('ab', 'ba')]
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    start = time.monotonic()
    runs(steps)
    assert time.monotonic() - start < 50
    half = str(max(1, demo.cores() // 2))
    assert Path('a').read_text() == Path('b').read_text() == half


def test_what_needs_a_step_runs_after_an_interruption_too(runs):
    """The step was run again, and the demo ended before what needs it."""
    steps = [write_step('a'), write_step('b', needs=('a', ))]
    assert runs(steps) == ['a', 'b']
    Path('a').unlink()
    assert runs(steps[:1]) == ['a']
    assert runs(steps) == ['b']


def test_changed_config(tmp_path, monkeypatch):
    configs = tmp_path / 'configs'
    (configs / 'base').mkdir(parents=True)
    (configs / 'base/a.py').write_text('x = 1\n')
    (configs / 'base/b.py').write_text("_base_ = 'a.py'\n")
    (configs / 'c.py').write_text("_base_ = ['base/b.py']\ny = _base_.x\n")
    monkeypatch.setattr(demo, 'ROOT', tmp_path)
    monkeypatch.chdir(tmp_path)
    step = demo.Step('c', '', 1, ('train.py', 'configs/c.py'))
    key = demo.key_of(tmp_path, step)
    assert demo.key_of(tmp_path, step) == key
    (configs / 'base/a.py').write_text('x = 2\n')
    assert demo.key_of(tmp_path, step) != key


@pytest.mark.parametrize('config', [demo.CLS, demo.DET, demo.SEG, demo.SEARCH])
def test_config_files(config):
    """mmengine reads the same files."""
    files = {p.resolve() for p in demo.config_files(ROOT / config)}
    text = Config.fromfile(ROOT / config, lazy_import=False)
    assert files >= {ROOT / config, ROOT / 'configs/_base_/default_runtime.py'}
    bases, _ = zip(*[(p, 0) for p in files])
    known = set()

    def collect(path):
        known.add(Path(path).resolve())
        for base in Config._get_base_files(str(path)):
            collect(Path(path).parent / base)

    collect(ROOT / config)
    assert set(bases) == known
    assert text.filename


def test_checkpoint_in_a_command(tmp_path):
    """Of the training's own folder, whatever is noted there."""
    for noted in ('w/epoch_8.pth\n', f'{tmp_path}/epoch_8.pth', '--x=../epoch_8.pth'):
        (tmp_path / 'last_checkpoint').write_text(noted)
        assert demo.resolve(f'checkpoint=@{{{tmp_path}}}') == (
            f'checkpoint={tmp_path}/epoch_8.pth')
    assert demo.resolve('--resume') == '--resume'


# ------------------------------------------------------ failures, interruption
def test_failing_step(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = 'print("\\n".join(map(str, range(40)))); raise SystemExit("a good reason")'
    steps = [write_step('a'), demo.Step('b', 'fail', 3, ('-c', code)),
             write_step('c', needs=('b', ))]
    monkeypatch.setattr(demo, 'make_steps', lambda out, full: steps)
    with pytest.raises(SystemExit) as error:
        call_main(monkeypatch, demo, '--work-dir', 'work')
    assert error.value.code == 1
    output = capsys.readouterr().out
    assert '[2/3] b' in output and 'a good reason' in output
    assert '    39\n' in output and '    20\n' not in output
    assert 'log: work/logs/02-b.log' in output
    command = re.search(r'run this step alone: (.+)', output)[1]
    result = subprocess.run(shlex.split(command), capture_output=True, text=True)
    assert 'a good reason' in result.stderr
    assert not Path('c').exists()

    # the next run goes on with it
    steps[1] = write_step('b')
    call_main(monkeypatch, demo, '--work-dir', 'work')
    assert [count_lines(n) for n in 'abc'] == [1, 1, 1]


# A training in the way of mmengine: it says what it did and goes on from there.
LONG = """\
import os, signal, sys, time
def end(number, frame):
    with open('told', 'a') as file:
        print('told to end', file=file)
    time.sleep(0.5)
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
os.makedirs('work/long', exist_ok=True)
path = 'work/long/epoch'
start = int(open(path).read()) if os.path.exists(path) else 0
print('max_epochs=9 started at', start)
for epoch in range(start, 9):
    print(f'Epoch(train)  [{epoch + 1}][5/5]  loss: 1.5')
    open(path, 'w').write(str(epoch + 1))
    if epoch == 2 and not start:
        open('pid', 'w').write(str(os.getpid()))
        time.sleep(60)
"""
SCRIPT = f"""\
import importlib.util, signal, sys
# a shell starts commands in the background with this signal ignored
signal.signal(signal.SIGINT, signal.default_int_handler)
spec = importlib.util.spec_from_file_location('demo', {str(ROOT / 'tools/demo.py')!r})
demo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(demo)
demo.make_steps = lambda out, full: [demo.Step(
    'long', 'take long', 3, ('-c', open('long.py').read(), *sys.argv[3:]),
    outputs=('work/long/epoch', ), folder='work/long', metric='mIoU')]
demo.main.__globals__['parse_args'] = lambda: demo.argparse.Namespace(
    full=False, work_dir=demo.Path(sys.argv[2]))
demo.main()
"""


@pytest.fixture
def long_demo(tmp_path):
    """A function that starts a demo with one long step, in its own process."""
    (tmp_path / 'long.py').write_text(LONG)
    (tmp_path / 'script.py').write_text(SCRIPT)

    def start(*options):
        return subprocess.Popen(
            [sys.executable, 'script.py', '--work-dir', 'work', *options],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    return start


def wait_for(path):
    end = time.monotonic() + 60
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < end, path
        time.sleep(0.05)
    return path.read_text()


@pytest.mark.parametrize('number, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interruption(number, code, long_demo, tmp_path):
    process = long_demo()
    pid = wait_for(tmp_path / 'pid')
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == code
    assert not is_running(pid)
    # a training that is told twice ends without saving
    assert count_lines(tmp_path / 'told') == 1
    assert 'Traceback' not in output
    if number == signal.SIGINT:
        assert 'The same command goes on from here.' in output.splitlines()[-1]
    record = json.loads((tmp_path / 'work/steps/long.json').read_text())
    assert record['state'] == 'started'

    # the same command goes on, in the same folder and log
    output, _ = long_demo().communicate(timeout=120)
    log = (tmp_path / 'work/logs/01-long.log').read_text()
    assert re.findall(r'^max_epochs=9 started at (\d)', log, re.MULTILINE) == ['0', '3']
    assert 'epoch 9/9, loss 1.5' in output
    done = json.loads((tmp_path / 'work/steps/long.json').read_text())
    assert done['state'] == 'done' and done['seconds'] > record['seconds'] > 0


def test_changed_after_an_interruption(long_demo, tmp_path):
    """What another command left is not continued."""
    process = long_demo()
    wait_for(tmp_path / 'pid')
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    (tmp_path / 'pid').unlink()
    process = long_demo('another')
    wait_for(tmp_path / 'pid')
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    log = (tmp_path / 'work/logs/01-long.log').read_text()
    assert re.findall(r'^max_epochs=9 started at (\d)', log, re.MULTILINE) == ['0']


def test_killed_demo_holds_the_work_dir_until_its_step_ends(long_demo, tmp_path):
    process = long_demo()
    pid = wait_for(tmp_path / 'pid')
    process.kill()
    process.communicate(timeout=120)
    other = long_demo()
    output, _ = other.communicate(timeout=120)
    assert other.returncode == 1
    assert 'another demo' in output and 'Traceback' not in output
    os.kill(int(pid), signal.SIGKILL)
    end = time.monotonic() + 30
    while is_running(pid) and time.monotonic() < end:
        time.sleep(0.05)
    output, _ = long_demo().communicate(timeout=120)
    assert 'epoch 9/9' in output


def test_folder_of_someone_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('work/a').mkdir(parents=True)
    Path('work/a/mine').write_text('mine')
    steps = [write_step('a', folder='work/a')]
    monkeypatch.setattr(demo, 'make_steps', lambda out, full: steps)
    message = main_error(monkeypatch, demo, '--work-dir', 'work')
    assert 'work/a exists' in message and '--work-dir' in message
    assert Path('work/a/mine').exists()


# -------------------------------------------------------------------- progress
def test_progress_of_a_training():
    progress = demo.read_progress(LOG, 'accuracy/top1')
    assert progress.fraction == pytest.approx((6 + 50 / 125) / 12)
    assert progress.text == 'epoch 7/12, loss 0.123, top-1 97.2'
    assert demo.read_progress(LOG).text == 'epoch 7/12, loss 0.123'


@pytest.mark.parametrize('log', ['', 'Traceback', LOG.split('\n')[0]])
def test_no_progress_yet(log):
    assert demo.read_progress(log, 'mIoU') == demo.Progress()


def test_progress_of_a_test():
    line = ('2026/01/01 00:00:00 - mmengine - INFO - Epoch(test)  [10/13]    '
            'eta: 0:00:03  time: 0.5  data_time: 0.01')
    assert demo.read_progress(line) == (10 / 13, 'batch 10/13')


def test_progress_of_a_bar():
    bars = '\rcls/train:  40%|####      | 1600/4000 [00:10<00:15]\rcls/train:  41%|#'
    assert demo.read_progress(bars) == (None, 'cls/train 41%')


def test_lines(monkeypatch, capsys):
    one = '[3/12] detector', demo.Progress(0.5, 'epoch 4/8, loss 1'), 65
    line = demo.line_of([one], '3 min')
    assert line == '[3/12] detector [####....] 1:05, 3 min left, epoch 4/8, loss 1'
    two = [one, ('[4/12] segmentor', demo.Progress(), 66)]
    assert demo.line_of(two, '3 min') == (
        '3 min left: detector 1:05, epoch 4/8 | segmentor 1:06')
    screen = demo.Screen()
    screen.moves = False
    for text in ('first', 'too early'):
        screen.show(text)
    screen.keep('end')
    assert capsys.readouterr().out == 'first\nend\n'
    screen.moves = True
    monkeypatch.setenv('COLUMNS', '10')
    screen.show('a line that is too long')
    screen.show('short')
    screen.keep('end')
    assert capsys.readouterr().out == '\ra line th\rshort    \rend      \n'


@pytest.mark.parametrize('seconds, text', [
    (3, '5 s'), (33, '35 s'), (89, '90 s'), (100, '2 min'), (430, '7 min')])
def test_durations(seconds, text):
    assert demo.about(seconds) == text


# ---------------------------------------------------------------------- report
def write_training(folder, metric, value):
    vis_data = folder / '20260101_000000/vis_data'
    vis_data.mkdir(parents=True)
    records = []
    for epoch in (1, 2):
        records += [dict(loss=1 / (epoch + i), iter=3 * epoch + i, step=3 * epoch + i,
                         epoch=epoch) for i in range(3)]
        records.append({metric: value * epoch / 2, 'step': epoch})
    (vis_data / 'scalars.json').write_text('\n'.join(map(json.dumps, records)))
    (folder / 'last_checkpoint').write_text(str(folder / 'epoch_2.pth'))
    (folder / 'config.py').write_text('')


@pytest.fixture(params=[False, True], ids=['demo', 'demo-full'])
def finished(request, tmp_path, monkeypatch):
    """The work dir of a demo before its last step, and whether it is the full one."""
    monkeypatch.chdir(tmp_path)
    # a name that HTML must escape
    out = Path('work & <dir>')
    steps = demo.make_steps(out, request.param)
    out.mkdir()
    demo.write_plan(out, steps, request.param)
    for step in steps:
        if step.metric:
            write_training(Path(step.folder), step.metric,
                           0.5 if step.metric == demo.MAP50 else 50.)
        demo.write_record(out, step, key='', state='done', seconds=65.)
        for file in step.outputs:
            if file.endswith(('.jpg', '.png')):
                cv2.imwrite(file, np.zeros((20, 30, 3), np.uint8))
    (out / 'latency.json').write_text(json.dumps(dict(
        device='a <CPU>, 1 thread', batch_size=1, models=[dict(
            name='config', input_shape=[64, 64], parameters=4321000,
            seconds={'as trained': [0.011, 0.012, 0.013],
                     'deploy form': [0.008, 0.009, 0.01]})])))
    return out, request.param


def test_report(finished, monkeypatch, scope):
    out, full = finished
    call_main(monkeypatch, report, out)
    text = (out / 'report.html').read_text()
    # self-contained: no other file, no script
    assert not re.search(r'<script|<link|@import|url\(|https?://', text)
    # well-formed
    root = ElementTree.fromstring(text.removeprefix('<!DOCTYPE html>'))
    images = root.findall('.//img')
    assert len(images) == 3 + 2 + 1 + 1
    for image in images:
        assert image.get('src').startswith(('data:image/png;base64,',
                                            'data:image/jpeg;base64,'))
        assert image.get('alt')
    assert len(text) < 2_000_000
    assert root.find('head/meta[@name="viewport"]') is not None
    assert 'prefers-color-scheme: dark' in text
    words = ' '.join(''.join(root.itertext()).split())
    for expected in ('50.0%', 'top-1' if not full else 'Search', '12.0 (11.0 to 13.0)',
                     'a <CPU>', '4.32 M', '64\N{MULTIPLICATION SIGN}64', '1:05'):
        assert expected in words, expected
    names = [s.name for s in demo.make_steps(out, full)]
    assert re.findall(r'<tr><td>([\w-]+)</td><td>(?!\d)', text) == names[:-1]


def test_commands_of_the_report(finished, monkeypatch, scope):
    """Three, whose tools and files exist; the config fits images of any size."""
    out, _ = finished
    call_main(monkeypatch, report, out)
    root = ElementTree.fromstring(
        (out / 'report.html').read_text().removeprefix('<!DOCTYPE html>'))
    commands = [pre.text for pre in root.findall('.//pre')]
    assert len(commands) == 3
    for line in '\n'.join(commands).splitlines():
        python, script, *_ = shlex.split(line)
        assert python == 'python'
        assert (Path(script) if script.startswith('..') else ROOT / script).is_file()
    cfg = Config.fromfile(out / 'own_images.py')
    init_default_scope(cfg.default_scope)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        pipeline = loader.dataset.pipeline
        item = dict(img=np.zeros((100, 150, 3), np.uint8), gt_label=0)
        for transform in pipeline[1:]:
            item = TRANSFORMS.build(transform)(item)
        assert tuple(item['inputs'].shape) == (3, 128, 128)


def test_the_report_reads_its_own_folder(finished, monkeypatch, scope):
    """Wherever the plan and the notes say that trainings are, as after a move."""
    out, _ = finished
    call_main(monkeypatch, report, out)
    before = (out / 'report.html').read_text()
    plan = json.loads((out / 'plan.json').read_text())
    for step in plan['steps']:
        if step['metric']:
            note = out / step['name'] / 'last_checkpoint'
            note.write_text('/elsewhere/epoch_2.pth')
            step['folder'] = f'/elsewhere/{step["name"]}'
    (out / 'plan.json').write_text(json.dumps(plan))
    call_main(monkeypatch, report, out)
    after = (out / 'report.html').read_text()
    assert '/elsewhere' not in after
    assert re.findall(r'\S+epoch_2\.pth', after) == re.findall(
        r'\S+epoch_2\.pth', before)


def test_report_without_a_result(finished, monkeypatch):
    out, _ = finished
    (out / 'network.png').unlink()
    message = main_error(monkeypatch, report, out)
    assert 'network.png' in message
    assert not (out / 'report.html').exists()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_whole_demo(tmp_path, monkeypatch, capfd):
    """As make demo runs it, and the commands that its report names."""
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    (tmp_path / 'tools').symlink_to(ROOT / 'tools')
    monkeypatch.chdir(tmp_path)
    run = [sys.executable, 'tools/demo.py']
    env = dict(os.environ, OMP_NUM_THREADS='2')
    subprocess.run(run, check=True, env=env)
    text = Path('work_dirs/demo/report.html').read_text()
    assert len(text) < 4_000_000
    values = [float(v) for v in re.findall(r'<b>([\d.]+)%</b>', text)]
    assert values[0] > 90 and values[1] > 80 and values[2] > 55
    capfd.readouterr()
    subprocess.run(run, check=True, env=env)
    assert re.findall(r'\] (\S+) +done in', capfd.readouterr().out) == ['report']
