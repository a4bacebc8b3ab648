# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Run the demo: train on digits, evaluate, and write a report of one page.

Each step runs one tool of this project in its own process, with a log file. Run the
same command again after an interruption: finished steps are skipped, and a training
resumes from its newest checkpoint.
"""
# Nothing here imports torch: the plan must be on the screen at once.
import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional

from filelock import FileLock, Timeout
from rich.live import Live
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
CLS = 'configs/demo/autonl-s_1xb32_demo-cls.py'
DET = 'configs/demo/retinanet_autonl-s_1xb8_demo-det.py'
DET_PLAIN = 'configs/demo/retinanet_autonl-s-no-light-nl_1xb8_demo-det.py'
SEG = 'configs/demo/semantic-fpn_autonl-s_1xb8_demo-seg.py'
SEARCH = 'configs/demo/autonl-supernet_retinanet_1xb8_demo-det.py'
ANALYSIS = 'tools/analysis_tools'
OPTIONS = '--cfg-options default_hooks.logger.interval=10'
PRETRAINED = ('{0}type=Pretrained {0}prefix=backbone. {0}checkpoint='
              .format('model.backbone.init_cfg.'))
TOP1, MAP50, MIOU = 'accuracy/top1', 'coco/bbox_mAP_50', 'mIoU'
# Seconds between two looks at the logs, and between two prints without a terminal
POLL, REPEAT = 0.3, 30.


@dataclass(eq=False)
class Step:
    """A tool to run.

    In a command, ``OUT/`` is the work dir, and ``@FOLDER`` the last checkpoint of the
    training in that folder.
    """
    name: str  # also of its log, and of the folder that it may fill
    title: str
    planned: int  # approximate seconds on two idle cores
    command: str  # script and arguments
    needs: str = ''  # names of the steps whose results it reads
    metric: str = ''  # of a training's evaluation
    seconds: Optional[float] = None  # so far; None: it starts from the beginning
    done: bool = False

    def start(self, out: Path, share: int) -> None:
        """Start the process, as one of ``share`` parallel processes."""
        self.log = out / f'logs/{self.name}.log'
        if self.seconds is None:
            self.seconds = 0.
            shutil.rmtree(out / self.name, ignore_errors=True)
            self.log.unlink(missing_ok=True)
        self.began = time.monotonic() - self.seconds
        threads = max(1, len(os.sched_getaffinity(0)) // share)
        command = [sys.executable, *(resolve(a, out) for a in self.command.split())]
        with open(self.log, 'a') as file:
            print('$', shlex.join(command), file=file, flush=True)
            # In its own session Ctrl-C does not reach it: a training that is told once
            # to end saves a checkpoint first, and ends at once if it is told twice.
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file,
                stderr=subprocess.STDOUT, start_new_session=True,
                env={'OMP_NUM_THREADS': str(threads), **os.environ,
                     'PYTHONUNBUFFERED': '1'})

    def look(self) -> str:
        """Update ``done`` and ``seconds``, and return a line that shows the step."""
        self.done = self.process.poll() == 0
        self.seconds = time.monotonic() - self.began
        log = self.log.read_text(errors='replace')
        if not self.done:
            return f'{self.name:26} {self.seconds:3.0f} s  {read_progress(log)}'
        values = re.findall(rf' {self.metric or None}: \S+', log)
        return f'{self.name:26} done in {self.seconds:.0f} s{"".join(values[-1:])}'


def train(name: str, title: str, planned: int, config: str, metric: str, needs: str,
          options: str = '') -> Step:
    return Step(name, title, planned, f'tools/train.py {config} --work-dir OUT/{name} '
                f'--resume {OPTIONS} {options}', needs, metric)


def evaluate(name: str, config: str, options: str) -> List[Step]:
    test, sheet = f'{name}-test', f'{name}-predictions'
    return [
        Step(test, f'evaluate the {name}, draw predictions', 25,
             f'tools/test.py {config} @OUT/{name} --work-dir OUT/{test} '
             f'--show-dir OUT/{test}/vis --interval 4 {OPTIONS} {options}', name),
        Step(sheet, 'put four predictions into one image', 2,
             f'{ANALYSIS}/contact_sheet.py OUT/{test}/vis '
             f'--out OUT/{sheet}.jpg --show-number 4 --columns 1 --width 640', test)]


def make_steps(full: bool) -> List[Step]:
    """The steps in their order, with a searched network if ``full``, or AutoNL-S."""
    if full:
        sets, models, others, shapes = 'det seg', '', '', ''
        # Its feature maps have 24, 40 and 80 channels at strides 4, 8 and 16.
        arch = 'model.backbone.arch=OUT/arch.txt model.backbone.out_indices='
        det = f'{arch}(3,4) model.neck.in_channels=[40,80]'
        seg = f'{arch}(2,3,4) model.neck.in_channels=[24,40,80]'
        # A backbone that has not seen single digits before takes longer.
        epochs = 'train_cfg.max_epochs={0} param_scheduler.total_steps={0}'.format
        steps = [
            train('search', 'search a network for a detector', 300, SEARCH, MAP50,
                  'data'),
            Step('export', 'export the network and its weights', 10,
                 f'tools/export_arch.py {SEARCH} @OUT/search --out OUT/arch.txt '
                 '--weights OUT/subnet.pth', 'search'),
            train('detector', 'train a RetinaNet with this network', 120, DET, MAP50,
                  'data export', f'{det} {PRETRAINED}OUT/subnet.pth {epochs(8)}'),
            train('segmentor', "train a Semantic FPN on the detector's backbone", 175,
                  SEG, MIOU, 'data detector',
                  f'{seg} {PRETRAINED}@OUT/detector {epochs(14)}'),
            Step('network', 'plot the network', 6, f'{ANALYSIS}/plot_arch.py '
                 'OUT/arch.txt --input-shape 160 160 --out OUT/network.png', 'export'),
            Step('decisions', 'plot the search', 6, f'{ANALYSIS}/plot_search.py '
                 'OUT/search --out OUT/decisions.png', 'search')]
    else:
        sets, det, seg = 'cls det seg', '', ''
        models, shapes = f'OUT/classifier/{Path(CLS).name}', '64x64'
        others = f'OUT/plain-detector/{Path(DET_PLAIN).name} '
        start = f'{PRETRAINED}@OUT/classifier'
        steps = [
            train('classifier', 'train AutoNL-S', 170, CLS, TOP1, 'data'),
            train('detector', "train a RetinaNet on the classifier's backbone", 180,
                  DET, MAP50, 'data classifier', start),
            train('plain-detector', 'train the same RetinaNet without LightNL', 180,
                  DET_PLAIN, MAP50, 'data classifier', start),
            train('segmentor', 'train a Semantic FPN on the same backbone', 205, SEG,
                  MIOU, 'data classifier', start),
            *evaluate('plain-detector', DET_PLAIN, ''),
            Step('network', 'plot the network', 6, f'{ANALYSIS}/plot_arch.py s '
                 '--input-shape 64 64 --num-classes 10 --out OUT/network.png'),
            # two digits and the background, in layers at strides 4, 8 and 16
            Step('attention', "plot LightNL's attention", 6,
                 f'{ANALYSIS}/show_attention.py '
                 'data/demo/seg/leftImg8bit/val/demo/demo_000000_leftImg8bit.png '
                 f'{SEG} @OUT/segmentor --points 86,108 126,83 140,20 --layer '
                 'backbone.layers.2.0.light_nl backbone.layers.3.0.light_nl '
                 'backbone.layers.4.0.light_nl --out OUT/attention.jpg', 'segmentor')]
    steps = [
        Step('data', 'make images of handwritten digits', 20, 'tools/dataset_'
             f'converters/make_demo_data.py --out data/demo --sets {sets}'),
        *steps, *evaluate('detector', DET, det), *evaluate('segmentor', SEG, seg)]
    # nothing runs beside the measurements of time
    steps.append(Step(
        'networks', 'measure networks with published accuracies', 40,
        'tools/benchmarks/compare_backbones.py --networks mobilenet-v2 '
        'mobilenet-v2-light-nl mobilenet-v3-large mnasnet-a1 efficientnet-b0 autonl-s '
        'autonl-l --batch-size 2 --rounds 7 --out OUT/networks.json',
        ' '.join(s.name for s in steps)))
    steps.append(Step(
        'latency', 'measure forward passes', 10,
        # The configs in the work dirs have the options of the trainings.
        f'tools/benchmarks/benchmark_forward.py {models} OUT/detector/{Path(DET).name} '
        f'{others}OUT/segmentor/{Path(SEG).name} --input-shapes {shapes} 160x160 '
        f'{"160x160 " * bool(others)}160x160 --out OUT/latency.json',
        ' '.join(s.name for s in steps)))
    return [*steps, Step('report', 'write the report', 15, 'tools/demo_report.py OUT/',
                         ' '.join(s.name for s in steps))]


def resolve(argument: str, out: Path) -> str:
    """Insert the work dir, a checkpoint, or the path of a file of the project."""
    if argument.startswith(('tools/', 'configs/')):
        return os.path.relpath(ROOT / argument)
    argument = argument.replace('OUT/', f'{out}/')
    return re.sub('(?:^|(?<==))@(.+)', lambda m: last_checkpoint(Path(m[1])), argument)


def last_checkpoint(folder: Path) -> str:
    """The last checkpoint of a training, by its name in the training's own folder."""
    return str(folder / Path((folder / 'last_checkpoint').read_text().strip()).name)


def read_progress(log: str) -> str:
    """Position, time left and loss in the last line of mmengine or of tqdm."""
    *_, last = ['', *re.findall(r'Epoch\((?:train|test)\).*|\S+: +\d+%(?=\|)', log)]
    words = re.findall(r'^\S+ +[][/ \d%]*[]%]|\beta: \S+|\bloss: \S+', last)
    return ' '.join(' '.join(words).split())


def startable(waiting: List[Step], running: List[Step]) -> List[Step]:
    """The waiting steps that can start now beside the running steps."""
    left = {step.name for step in (*waiting, *running)}
    ready = [step for step in waiting if left.isdisjoint(step.needs.split())]
    return ready[:2 - len(running)]


def duration(steps: List[Step]) -> int:
    """Planned seconds of the steps that are not done, two at a time."""
    waiting, ends, now = [step for step in steps if not step.done], {}, 0
    while waiting or ends:
        for step in startable(waiting, [*ends]):
            waiting.remove(step)
            ends[step] = now + step.planned
        now = ends.pop(min(ends, key=ends.get))
    return now


def recall(steps: List[Step], out: Path) -> None:
    """Set which steps are done and which training is resumed, by the last run's plan.

    Raises:
        FileExistsError: If a step would overwrite a folder of another origin.
    """
    plan = out / 'plan.json'
    old = json.loads(plan.read_text())['steps'] if plan.exists() else []
    old = {record['name']: record for record in old}
    undone = {'report'}  # it takes seconds
    for step in steps:
        if not old and (out / step.name).exists():
            raise FileExistsError(f'{out / step.name} is not from a demo: remove it, '
                                  'or choose another --work-dir')
        record = old.get(step.name, {})
        if (record.get('command') == step.command
                and undone.isdisjoint((step.name, *step.needs.split()))):
            results = re.findall(r'--(?:out|weights|work-dir) (\S+)', step.command)
            if step.metric:
                results.append(f'OUT/{step.name}/last_checkpoint')
            step.done = record['done'] and all(
                os.path.exists(resolve(path, out)) for path in results)
            if step.done or (step.metric and not record['done']):
                step.seconds = record['seconds']
        if not step.done:
            undone.add(step.name)


def save(steps: List[Step], out: Path, full: bool) -> None:
    """Write the plan, for the next run and for the report."""
    keys = ('name', 'title', 'metric', 'command', 'seconds', 'done')
    records = [{key: getattr(step, key) for key in keys} for step in steps]
    (out / 'plan.tmp').write_text(json.dumps(dict(full=full, steps=records), indent=1))
    os.replace(out / 'plan.tmp', out / 'plan.json')  # a kill leaves one of the two


def run(steps: List[Step], out: Path, full: bool) -> None:
    """Print the plan, and run the steps that are not done, two at a time."""
    for step in steps:
        left = 'done' if step.done else f'{step.planned:3} s'
        print(f'{step.name:26} {step.title:47} {left}')
    print(f'\nThis takes about {duration(steps) / 60:.0f} min on two idle cores.\n'
          f'Logs: {out}/logs. To start from the beginning, remove {out}.\n'
          'Ctrl-C stops the demo, and the same command resumes it.\n', flush=True)
    waiting, running = [step for step in steps if not step.done], []
    shown = 0.  # seconds since the last print without a terminal
    with Live(auto_refresh=False, transient=True) as live:
        try:
            while waiting or running:
                ready = startable(waiting, running)
                share = len(running) + len(ready)
                for step in ready:
                    waiting.remove(step)
                    step.start(out, share)
                    running.append(step)
                save(steps, out, full)
                lines = '\n'.join(step.look() for step in running)
                live.update(Text(lines, no_wrap=True), refresh=True)
                time.sleep(POLL)
                shown += POLL
                if shown > REPEAT and not live.console.is_interactive:
                    print(lines, flush=True)
                    shown = 0.
                for step in [s for s in running if s.process.poll() is not None]:
                    running.remove(step)
                    print(step.look(), flush=True)
                    if not step.done:
                        text = step.log.read_text(errors='replace')
                        command, *log = text.splitlines()
                        sys.exit('\n    '.join([
                            f'demo.py: {step.name} failed. Its command, and the end of '
                            f'its log {step.log}:', command, *log[-15:]]))
        finally:
            for step in running:
                step.process.terminate()
            for step in running:
                step.process.wait()
                step.look()
            save(steps, out, full)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--full', action='store_true',
                        help='search a network and train it, instead of AutoNL-S')
    parser.add_argument('--work-dir', type=Path, help='folder for all results; default '
                        'work_dirs/demo, with --full work_dirs/demo-full')
    args = parser.parse_args()
    out = args.work_dir or Path('work_dirs', 'demo-full' if args.full else 'demo')
    for number in (signal.SIGTERM, signal.SIGHUP):  # end the steps as after Ctrl-C
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    try:
        (out / 'logs').mkdir(parents=True, exist_ok=True)
        with FileLock(out / 'lock', timeout=0):
            steps = make_steps(args.full)
            recall(steps, out)
            run(steps, out, args.full)
    except Timeout:
        sys.exit(f'demo.py: another demo runs in {out}: wait for its end, or stop it')
    except OSError as e:
        sys.exit(f'demo.py: {e}')
    except KeyboardInterrupt:
        print('\nStopped. To resume, run the same command again.')
        sys.exit(128 + signal.SIGINT)
    print(f'\nThe report: {out}/report.html')


if __name__ == '__main__':
    main()
