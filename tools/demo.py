# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Run the demo: train on digits, evaluate, and write a report of one page.

Each step is one of this project's tools in a process of its own, with its output in
a log file. Steps that are done are skipped as long as their command and their config
are the same; an interrupted training goes on from its newest checkpoint. Run the same
command again after an interruption.
"""
# Only the standard library: the plan must be on the screen at once, and importing
# torch takes seconds.
import argparse
import ast
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

ROOT = Path(__file__).resolve().parents[1]
CLS = 'configs/demo/autonl-s_1xb32_demo-cls.py'
DET = 'configs/demo/retinanet_autonl-s_1xb8_demo-det.py'
SEG = 'configs/demo/semantic-fpn_autonl-s_1xb8_demo-seg.py'
SEARCH = 'configs/demo/autonl-supernet_retinanet_1xb8_demo-det.py'
LOG_EVERY = 'default_hooks.logger.interval=10'
TOP1, MAP50, MIOU = 'accuracy/top1', 'coco/bbox_mAP_50', 'mIoU'
SHORT = {TOP1: 'top-1', MAP50: 'mAP50', MIOU: 'mIoU'}
# Two digits and the background of an image, and layers at strides 4, 8 and 16
ATTENTION_IMAGE = 'data/demo/seg/leftImg8bit/val/demo/demo_000000_leftImg8bit.png'
ATTENTION_POINTS = ('86,108', '126,83', '140,20')
ATTENTION_LAYERS = tuple(f'backbone.layers.{i}.0.light_nl' for i in (2, 3, 4))
# Seconds between two looks at a log, and between two lines if the output is no terminal
POLL, REPEAT = 0.5, 15.
# Steps that run at a time
AT_A_TIME = 2
# Seconds that a step has to end when it is told to
GRACE = 30.
# Characters of the bar, so that the line of a training fits into 80
BAR = 8


class Step(NamedTuple):
    """A tool to run.

    Args:
        name (str): Short name; also of its log and of its record.
        title (str): What it does.
        seconds (int): About how long it takes on two idle cores.
        command (tuple[str, ...]): Script and arguments. ``@{FOLDER}`` stands for the
            last checkpoint of the training in a folder.
        needs (tuple[str, ...]): Names of the steps whose results it reads. Defaults
            to none.
        outputs (tuple[str, ...]): Files that exist when it is done. Defaults to none.
        folder (str): The folder that only this step fills, emptied before it starts
            from the beginning. Defaults to '', none.
        metric (str): The metric that a training evaluates. Defaults to ''.
        alone (bool): Whether no other step may run beside it, as it measures time.
            Defaults to False.
    """
    name: str
    title: str
    seconds: int
    command: Tuple[str, ...]
    needs: Tuple[str, ...] = ()
    outputs: Tuple[str, ...] = ()
    folder: str = ''
    metric: str = ''
    alone: bool = False


def tool(path: str) -> str:
    """Path of a file of the project, relative to the working folder."""
    return os.path.relpath(ROOT / path)


def pretrained(checkpoint: str) -> List[str]:
    """Options that load a backbone before training."""
    init = 'model.backbone.init_cfg'
    return [f'{init}.type=Pretrained', f'{init}.checkpoint={checkpoint}',
            f'{init}.prefix=backbone.']


def epochs(number: int) -> List[str]:
    """Options that change the number of epochs of a training."""
    return [f'train_cfg.max_epochs={number}', f'param_scheduler.total_steps={number}']


def training(name: str, title: str, seconds: int, config: str, folder: Path,
             metric: str, needs: Tuple[str, ...], *options: str) -> Step:
    """The step of a training, which is resumed after an interruption."""
    return Step(
        name, title, seconds,
        (tool('tools/train.py'), tool(config), '--work-dir', str(folder), '--resume',
         '--cfg-options', LOG_EVERY, *options), needs,
        (f'{folder}/last_checkpoint', ), str(folder), metric)


def evaluation(name: str, config: str, source: Path, *options: str) -> List[Step]:
    """Steps that evaluate a checkpoint, and put its predictions on one image."""
    folder, sheet = f'{source}-test', f'{source}-predictions.jpg'
    return [
        Step(name, f'evaluate the {source.name}, draw its predictions', 25,
             (tool('tools/test.py'), tool(config), f'@{{{source}}}', '--work-dir',
              folder, '--show-dir', f'{folder}/vis', '--interval', '4',
              '--cfg-options', LOG_EVERY, *options), (source.name, ), folder=folder),
        Step(f'{name}-sheet', 'put some of them on one image', 2,
             (tool('tools/analysis_tools/contact_sheet.py'), f'{folder}/vis', '--out',
              sheet, '--show-number', '4', '--columns', '1', '--width', '640'),
             (name, ), (sheet, )),
    ]


def plot(file: Path, title: str, script: str, needs: Tuple[str, ...],
         *arguments: str) -> Step:
    """The step of a plot."""
    script = tool(f'tools/analysis_tools/{script}.py')
    return Step(file.stem, title, 6, (script, *arguments, '--out', str(file)), needs,
                (str(file), ))


def data(*sets: str) -> Step:
    """The step that makes the images."""
    return Step('data', 'make images of handwritten digits', 20,
                (tool('tools/dataset_converters/make_demo_data.py'), '--sets', *sets),
                outputs=tuple(f'data/demo/{s}/meta.json' for s in sets))


def plain_steps(out: Path) -> List[Step]:
    """The demo: AutoNL-S as a classifier, and in a detector and a segmentor."""
    cls, det, seg = out / 'classifier', out / 'detector', out / 'segmentor'
    start = pretrained(f'@{{{cls}}}')
    return [
        data('cls', 'det', 'seg'),
        training('classifier', 'train AutoNL-S', 170, CLS, cls, TOP1, ('data', )),
        training('detector', 'train a RetinaNet from its backbone', 180, DET, det,
                 MAP50, ('data', 'classifier'), *start),
        training('segmentor', 'train a Semantic FPN from its backbone', 205, SEG, seg,
                 MIOU, ('data', 'classifier'), *start),
        *evaluation('detection', DET, det),
        *evaluation('segmentation', SEG, seg),
        plot(out / 'network.png', 'plot the network', 'plot_arch', (), 's',
             '--input-shape', '64', '64', '--num-classes', '10'),
        plot(out / 'attention.jpg', "plot LightNL's attention", 'show_attention',
             ('segmentor', ), ATTENTION_IMAGE, tool(SEG), f'@{{{seg}}}', '--layer',
             *ATTENTION_LAYERS, '--points', *ATTENTION_POINTS),
        latency(out, (CLS, cls, '64x64'), (DET, det, '160x160'), (SEG, seg, '160x160')),
    ]


def full_steps(out: Path) -> List[Step]:
    """The full demo: a search for the detector, whose network both then use."""
    search, det, seg = out / 'search', out / 'detector', out / 'segmentor'
    text, weights = f'{out}/arch.txt', f'{out}/subnet.pth'
    arch = f'model.backbone.arch={text}'
    # Its feature maps have 24, 40 and 80 channels at strides 4, 8 and 16.
    det_options = (arch, 'model.backbone.out_indices=(3,4)',
                   'model.neck.in_channels=[40,80]')
    seg_options = (arch, 'model.backbone.out_indices=(2,3,4)',
                   'model.neck.in_channels=[24,40,80]')
    return [
        data('det', 'seg'),
        training('search', 'search a network for a detector', 300, SEARCH, search,
                 MAP50, ('data', )),
        Step('export', 'export it with its weights', 10,
             (tool('tools/export_arch.py'), tool(SEARCH), f'@{{{search}}}', '--out',
              text, '--weights', weights), ('search', ), (text, weights)),
        # A backbone that has not seen single digits before takes longer.
        training('detector', 'train a RetinaNet with it', 120, DET, det, MAP50,
                 ('data', 'export'), *det_options, *pretrained(weights), *epochs(8)),
        training('segmentor', "train a Semantic FPN from the detector's backbone", 175,
                 SEG, seg, MIOU, ('data', 'detector'), *seg_options,
                 *pretrained(f'@{{{det}}}'), *epochs(14)),
        *evaluation('detection', DET, det, *det_options),
        *evaluation('segmentation', SEG, seg, *seg_options),
        plot(out / 'network.png', 'plot the network', 'plot_arch', ('export', ), text,
             '--input-shape', '160', '160'),
        plot(out / 'decisions.png', 'plot the search', 'plot_search', ('search', ),
             str(search)),
        latency(out, (DET, det, '160x160'), (SEG, seg, '160x160')),
    ]


def latency(out: Path, *models: Tuple[str, Path, str]) -> Step:
    """The step that measures models: config, work dir and image size of each."""
    # the copies in the work dirs, which have the options of the training
    configs = [f'{folder}/{Path(config).name}' for config, folder, _ in models]
    return Step(
        'latency', 'measure forward passes', 10,
        (tool('tools/benchmarks/benchmark_forward.py'), *configs, '--input-shapes',
         *(shape for *_, shape in models), '--out', f'{out}/latency.json'),
        tuple(folder.name for _, folder, _ in models), (f'{out}/latency.json', ),
        alone=True)


def make_steps(out: Path, full: bool) -> List[Step]:
    """The steps of the demo in their order.

    Args:
        out (Path): The work dir.
        full (bool): Whether a network is searched.
    """
    steps = full_steps(out) if full else plain_steps(out)
    report = Step('report', 'write the report', 7,
                  (tool('tools/demo_report.py'), str(out)),
                  tuple(step.name for step in steps), (f'{out}/report.html', ))
    return [*steps, report]


# ------------------------------------------------------------------ what is done
def config_files(path: Path) -> List[Path]:
    """A config and all that it inherits from.

    Args:
        path (Path): The config.
    """
    files = [path]
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(
                node.targets[0], 'id', '') == '_base_':
            bases = ast.literal_eval(node.value)
            for base in [bases] if isinstance(bases, str) else bases:
                files += config_files(path.parent / base)
    return files


def read_record(out: Path, step: Step) -> dict:
    """What is known of a step: ``key``, ``state``, ``seconds``; empty if nothing."""
    try:
        return json.loads(record_path(out, step.name).read_text())
    except (FileNotFoundError, ValueError):
        return {}


def record_path(out: Path, name: str) -> Path:
    return out / 'steps' / f'{name}.json'


def write_record(out: Path, step: Step, **record) -> None:
    """Replace a step's record, whole: a kill leaves the one before."""
    path = record_path(out, step.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix('.tmp')
    partial.write_text(json.dumps(record))
    os.replace(partial, path)


def key_of(out: Path, step: Step) -> str:
    """Digest of all that a step's result depends on.

    These are its command, its configs and the records of the steps that it needs,
    which change with every run of them.
    """
    parts = list(step.command)
    for argument in step.command:
        path = Path(argument)
        if path.suffix == '.py' and ROOT / 'configs' in path.resolve().parents:
            parts += [p.read_text() for p in config_files(path)]
    for name in step.needs:
        path = record_path(out, name)
        parts.append(path.read_text() if path.exists() else '')
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def pending(out: Path, steps: List[Step]) -> List[Step]:
    """The steps that are not done, or that need one which is not."""
    names = set()
    for step in steps:
        record = read_record(out, step)
        if (names & set(step.needs) or record.get('state') != 'done'
                or record['key'] != key_of(out, step)
                or not all(map(os.path.exists, step.outputs))):
            names.add(step.name)
    return [step for step in steps if step.name in names]


# --------------------------------------------------------------------- progress
class Progress(NamedTuple):
    """How far a step is: a fraction, or None if its log does not say, and words."""
    fraction: Optional[float] = None
    text: str = ''


def read_progress(log: str, metric: str = '') -> Progress:
    """Read mmengine's log of a training or a test, or a progress bar.

    Args:
        log (str): What was logged since the step was started.
        metric (str): The evaluation metric to show. Defaults to ''.
    """
    trained = re.findall(
        r'Epoch\(train\) +\[(\d+)\]\[ *(\d+)/(\d+)\].*? loss: (\S+)', log)
    total = re.search(r'\bmax_epochs=(\d+)', log)
    if trained and total:
        epoch, step, length, loss = trained[-1]
        done = (int(epoch) - 1 + int(step) / int(length)) / int(total[1])
        text = f'epoch {epoch}/{total[1]}, loss {float(loss):.3g}'
        values = metric and re.findall(
            rf'Epoch\(val\) .* {re.escape(metric)}: ([\d.]+)', log)
        if values:
            text += f', {SHORT[metric]} {float(values[-1]):.3g}'
        return Progress(min(done, 1.), text)
    tested = re.findall(r'Epoch\(test\) +\[ *(\d+)/(\d+)\]', log)
    if tested:
        step, length = map(int, tested[-1])
        return Progress(step / length, f'batch {step}/{length}')
    bars = re.findall(r'(\S+): +(\d+)%\|', log)  # tqdm's
    return Progress(text=f'{bars[-1][0]} {bars[-1][1]}%' if bars else '')


def clock(seconds: float) -> str:
    """``1:05`` for 65 seconds."""
    return f'{int(seconds) // 60}:{int(seconds) % 60:02d}'


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def about(seconds: float) -> str:
    """A duration in words, rounded."""
    return (f'{round(seconds / 60)} min' if seconds >= 90 else
            f'{max(5, round(seconds / 5) * 5)} s')


class Screen:
    """One line that moves on a terminal, else a line from time to time."""

    def __init__(self):
        self.moves = sys.stdout.isatty()
        self.shown = 0.

    def show(self, line: str) -> None:
        """Show the state, in place of the state before."""
        if self.moves:
            width = shutil.get_terminal_size().columns - 1
            print(f'\r{line[:width]:{width}}', end='', flush=True)
        elif time.monotonic() - self.shown >= REPEAT:
            self.shown = time.monotonic()
            print(line, flush=True)

    def keep(self, line: str) -> None:
        """Print a line that stays."""
        if self.moves:
            width = shutil.get_terminal_size().columns - 1
            print(f'\r{line:{width}}', flush=True)
        else:
            self.shown = time.monotonic()
            print(line, flush=True)


# ---------------------------------------------------------------------- running
def resolve(argument: str) -> str:
    """Put the last checkpoint of a training in the place of ``@{FOLDER}``.

    It is the file of that name in the folder, whatever path it was noted with.
    """
    return re.sub(
        r'@\{(.+?)\}', lambda m: os.path.join(m[1], os.path.basename(
            Path(m[1], 'last_checkpoint').read_text().strip())), argument)


def python() -> str:
    """The interpreter as it is typed: relative if it is below the working folder."""
    path = os.path.relpath(sys.executable)
    return sys.executable if path.startswith('..') else path


def start_over(out: Path, step: Step) -> None:
    """Remove what an earlier run of a step left, if it cannot be continued.

    Raises:
        FileExistsError: If its folder was filled by someone else.
    """
    folder = step.folder and Path(step.folder)
    if folder and folder.exists():
        if not read_record(out, step):
            raise FileExistsError(
                f'{folder} exists and is not of this demo: remove it, or choose '
                'another --work-dir')
        shutil.rmtree(folder)


class Running:
    """A step that runs.

    Args:
        out (Path): The work dir.
        step (Step): The step.
        label (str): Its number and name.
        lock (int): File descriptor of the lock, which the process keeps: if this tool
            is killed, the step holds the work dir until it ends.
        threads (int): Threads that it may use.
    """

    def __init__(self, out: Path, step: Step, label: str, lock: int, threads: int):
        self.out, self.step, self.label = out, step, label
        self.key, record = key_of(out, step), read_record(out, step)
        self.before = 0.
        if step.metric and record.get('key') == self.key and record[
                'state'] == 'started':
            self.before = record['seconds']  # a training, which is resumed
        else:
            start_over(out, step)
        write_record(out, step, key=self.key, state='started', seconds=self.before)
        self.log = log_path(out, label)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.command = [python(), *map(resolve, step.command)]
        self.start = time.monotonic()
        with open(self.log, 'a' if self.before else 'w') as file:
            print('$', shlex.join(self.command), file=file, flush=True)
            self.begin = file.tell()
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=file,
                stderr=subprocess.STDOUT, pass_fds=(lock, ),
                env={'OMP_NUM_THREADS': str(threads), **os.environ,
                     'PYTHONUNBUFFERED': '1'},
                # Ctrl-C does not reach it: a training that is told once to end saves
                # a checkpoint first, and ends at once if it is told twice.
                start_new_session=True)

    @property
    def seconds(self) -> float:
        """Seconds so far, earlier runs that it continues included."""
        return self.before + time.monotonic() - self.start

    def progress(self) -> Progress:
        """How far it is."""
        with open(self.log, errors='replace') as file:
            file.seek(self.begin)
            return read_progress(file.read(), self.step.metric)

    def finish(self) -> str:
        """Note how it ended.

        Returns:
            str: The line that stays on the screen.

        Raises:
            subprocess.CalledProcessError: If it failed.
        """
        code, seconds = self.process.wait(), self.seconds
        state = 'started' if code else 'done'
        write_record(self.out, self.step, key=self.key, state=state, seconds=seconds,
                     command=shlex.join(self.command), finished=time.time())
        if code:
            raise subprocess.CalledProcessError(code, self.command)
        text = self.progress().text
        return (f'{self.label} done in {clock(seconds)}' +
                (text and self.step.metric and f', {text}'))


def stop(processes: List[subprocess.Popen]) -> None:
    """End processes, by force those that do not listen."""
    for process in processes:
        if process.poll() is None:
            process.terminate()  # once: see Running
    end = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(0., end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def line_of(shown: List[Tuple[str, Progress, float]], rest: str) -> str:
    """The line that shows the running steps.

    Args:
        shown (list[tuple[str, Progress, float]]): Label, progress and seconds of each.
        rest (str): Words for the time that is left.
    """
    if len(shown) > 1:
        parts = [f'{label.split()[-1]} {clock(seconds)}' +
                 (progress.text and f', {progress.text.split(",")[0]}')
                 for label, progress, seconds in shown]
        return f'{rest} left: {" | ".join(parts)}'
    (label, progress, seconds), = shown
    bar = ''
    if progress.fraction is not None:
        full = int(BAR * progress.fraction)
        bar = f'[{"#" * full}{"." * (BAR - full)}] '
    return (f'{label} {bar}{clock(seconds)}, {rest} left' +
            (progress.text and f', {progress.text}'))


def log_path(out: Path, label: str) -> Path:
    """The log of a step: ``logs/03-detector.log`` for ``[3/12] detector``."""
    number, name = re.fullmatch(r'\[ *(\d+)/\d+\] (\S+) *', label).groups()
    return out / 'logs' / f'{int(number):02d}-{name}.log'


def run_all(out: Path, steps: List[Step], lock: int) -> None:
    """Run the steps that are not done, in their order, two at a time where that is
    possible: each then has half of the cores, which loading and evaluating, done by
    one thread, use better.

    Raises:
        subprocess.CalledProcessError: If one failed; what it printed last, its log
            and its command have been printed.
    """
    screen = Screen()
    waiting = pending(out, steps)
    planned, start = duration(waiting, {}), time.monotonic()
    digits = len(str(len(steps)))
    running: List[Running] = []
    try:
        while waiting or running:
            ready = startable(waiting, [one.step for one in running])
            for step in ready:
                waiting.remove(step)
                label = f'[{steps.index(step) + 1:{digits}}/{len(steps)}] {step.name}'
                threads = max(1, cores() // (len(running) + len(ready)))
                running.append(Running(out, step, label, lock, threads))
            shown = [(one.label, one.progress(), one.seconds) for one in running]
            left = duration(waiting, {
                one.step: one.step.seconds * (1 - (progress.fraction or 0.))
                for one, (_, progress, _) in zip(running, shown)})
            pace = 1.
            if planned - left > 60:  # before, the start of processes counts too much
                pace = (time.monotonic() - start) / (planned - left)
            screen.show(line_of(shown, about(pace * left)))
            with contextlib.suppress(subprocess.TimeoutExpired):
                running[0].process.wait(POLL)
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                finish(one, screen)
    finally:
        stop([one.process for one in running])
        for one in running:
            with contextlib.suppress(subprocess.CalledProcessError):
                one.finish()


def startable(waiting: List[Step], running: List[Step]) -> List[Step]:
    """The steps that can start now.

    Args:
        waiting (list[Step]): Steps that are to be run, in their order.
        running (list[Step]): Steps that run.
    """
    ready = []
    left = {step.name for step in (*waiting, *running)}
    for step in waiting:
        beside = [*running, *ready]
        if len(beside) == AT_A_TIME or any(other.alone for other in beside):
            break
        if not left & set(step.needs) and not (step.alone and beside):
            ready.append(step)
    return ready


def finish(one: Running, screen: Screen) -> None:
    """Say that a step is done, or how it failed.

    Raises:
        subprocess.CalledProcessError: If it failed.
    """
    try:
        screen.keep(one.finish())
    except subprocess.CalledProcessError as e:
        lines = one.log.read_text(errors='replace').splitlines()[-15:]
        screen.keep(f'{one.label} failed. The end of its log:')
        print('\n'.join(f'    {line}' for line in lines))
        print(f'log: {one.log}\nrun this step alone: {shlex.join(e.cmd)}\n'
              'The same command as before goes on with this step.')
        raise


def duration(waiting: List[Step], running: Dict[Step, float]) -> float:
    """How many seconds steps take, by the plan.

    Args:
        waiting (list[Step]): Steps that are to be run, in their order.
        running (dict[Step, float]): Those that run, and the seconds left of each.
    """
    waiting, running, now = list(waiting), dict(running), 0.
    while waiting or running:
        for step in startable(waiting, list(running)):
            waiting.remove(step)
            running[step] = now + step.seconds
        first = min(running, key=running.__getitem__)
        now = running.pop(first)
    return now


@contextlib.contextmanager
def lock_work_dir(out: Path) -> Iterator[int]:
    """Lock the work dir for this process and the steps that it starts.

    Yields:
        int: File descriptor of the lock, for the steps.

    Raises:
        BlockingIOError: If another run holds it.
    """
    out.mkdir(parents=True, exist_ok=True)
    lock = os.open(out / 'lock', os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise BlockingIOError(
            f'another demo, or a step that it left, runs in {out}: wait until it has '
            'ended, or end it') from None
    try:
        yield lock
    finally:
        os.close(lock)


def describe(steps: List[Step], left: List[Step], out: Path, full: bool) -> str:
    """What the demo will do, and how long it will take."""
    names = {step.name for step in left}
    what = ('searches a network for a detector, and trains a detector and a segmentor '
            'with it' if full else 'trains a classifier, a detector and a segmentor')
    lines = [f'The demo {what}, on images of handwritten digits.', '']
    lines += [f'  {i:2} {s.name:20} {s.title:46} ' +
              (about(s.seconds) if s.name in names else 'done')
              for i, s in enumerate(steps, 1)]
    total = about(duration(left, {}))
    return '\n'.join(lines + [
        '', f'It takes about {total} on two idle cores. The report: {out}/report.html.',
        f'Logs are in {out}/logs. Ctrl-C stops it; the same command goes on.', ''])


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--full', action='store_true',
        help='search a network and train with it, instead of AutoNL-S')
    parser.add_argument(
        '--work-dir', type=Path,
        help='folder for all results; default work_dirs/demo, with --full '
        'work_dirs/demo-full')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    out = args.work_dir or Path('work_dirs', 'demo-full' if args.full else 'demo')
    # As for Ctrl-C, the running step is ended too.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    try:
        with lock_work_dir(out) as lock:
            steps = make_steps(out, args.full)
            # It takes seconds, and what it shows may have changed.
            record_path(out, 'report').unlink(missing_ok=True)
            print(describe(steps, pending(out, steps), out, args.full), flush=True)
            write_plan(out, steps, args.full)
            run_all(out, steps, lock)
    except (BlockingIOError, FileExistsError) as e:
        sys.exit(f'demo.py: {e}')
    except subprocess.CalledProcessError:
        sys.exit(1)
    except KeyboardInterrupt:
        print('\nStopped. The same command goes on from here.')
        sys.exit(128 + signal.SIGINT)
    print(f'\nThe report: {out}/report.html')


def write_plan(out: Path, steps: List[Step], full: bool) -> None:
    """Write for the report what the steps are."""
    plan: Dict[str, object] = dict(full=full, steps=[
        dict(name=s.name, title=s.title, metric=s.metric, folder=s.folder)
        for s in steps])
    (out / 'plan.json').write_text(json.dumps(plan, indent=1))


if __name__ == '__main__':
    main()
