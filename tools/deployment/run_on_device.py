# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Measure exported models on a phone or on another computer.

tools/analysis_tools/measure_latency.py --for-device writes the models. This tool copies
them to the device, runs each model in a process of its own, round after round, and
writes one table. On a phone, reached by adb, the engine's own benchmark program
measures. It must be in the folder of the models. On this machine and by ssh,
time_model.py measures with the engine's Python package.

Each time is saved at once: the same command continues a stopped run.
"""
import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from autonl_mm.measure.device_table import MANIFEST, read_table
from autonl_mm.measure.timing import tqdm
from autonl_mm.runs import configs, outputs
from autonl_mm.runs.atomic_files import atomic_write

STAND_IN = Path(__file__).with_name('time_model.py')
# Program and arguments of each engine's benchmark for Android
PROGRAMS = {
    'onnxruntime': ('onnxruntime_perf_test',
                    '-I -s -m times -r {runs} -x {threads} {file}'),
    'litert': ('benchmark_model', '--graph={file} --num_threads={threads} '
               '--num_runs={runs} --min_secs=0.1 --warmup_min_secs=0.1'),
    'mnn': ('benchmark.out', '{folder} {runs} 3 0 {threads} 1'),
    'ncnn': ('benchncnn', "{runs} {threads} 0 -1 0 param={file} "
             "'shape=[{width},{height},{channels}]'"),
    'executorch': ('executor_runner', '--model_path={file} --num_executions={runs} '
                   '--cpu_threads={threads}'),
}
# How programs print the time of a run, the best statistic first, and milliseconds of
# their unit. The last line counts, since lines of a warm-up come first.
TIMES = [
    (r'P50 Latency(?: is|:) *(?P<time>[\d.e+-]+) *s', 1e3),  # onnxruntime_perf_test
    (r'\bmedian=(?P<time>[\d.e+-]+)', 1e-3),  # benchmark_model
    (r'Inference \(avg\): (?P<time>[\d.e+-]+)', 1e-3),  # benchmark_model, older
    (r'\bavg = *(?P<time>[\d.e+-]+)', 1),  # benchmark.out, benchncnn
    (r'successfully (?P<runs>\d+) time\(s\) in (?P<time>[\d.e+-]+) ms', 1),
    (r'Median: +(?P<time>[\d.e+-]+) ms', 1),  # time_model.py, OpenVINO's benchmark_app
]


class DeviceError(RuntimeError):
    """A command failed on the device."""


class Device:
    """A device on which shell commands run.

    Args:
        runner (str): ``local``, ``adb``, ``adb:SERIAL`` or ``ssh:HOST``.
        models (Path): The folder of the models on this machine.
        folder (str | None): The folder of the models on another device; None for
            ``/data/local/tmp/autonl_mm`` on a phone, and ``autonl_mm_models`` in the
            home folder by ssh.

    Raises:
        ValueError: If the runner is another word.
    """

    def __init__(self, runner, models, folder):
        self.kind, _, name = runner.partition(':')
        self.models = models
        if runner == 'local':
            self.folder, self.shell = models.absolute(), ['sh', '-c']
            self.copy = None
        elif self.kind == 'adb':
            adb = ['adb', '-s', name] if name else ['adb']
            self.folder = folder or '/data/local/tmp/autonl_mm'
            self.shell, self.copy = [*adb, 'shell'], [*adb, 'push', '--sync']
            self.target = self.folder
        elif self.kind == 'ssh' and name:
            self.folder = folder or 'autonl_mm_models'
            self.shell, self.copy = ['ssh', name], ['scp', '-qr']
            self.target = f'{name}:{self.folder}'
        else:
            raise ValueError(f'--runner is {runner!r}, expected local, adb, adb:SERIAL '
                             'or ssh:HOST')

    def call(self, command, timeout=600):
        """Output of a program on this machine.

        Raises:
            DeviceError: If it fails; with the last line of its output.
        """
        try:
            result = subprocess.run(
                [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, errors='replace', timeout=timeout)
        except subprocess.TimeoutExpired:
            raise DeviceError(f'it did not end within {timeout} s') from None
        except FileNotFoundError:
            raise DeviceError(f'{command[0]} is not installed here') from None
        if result.returncode:
            lines = result.stdout.strip().splitlines()
            raise DeviceError(f'exit status {result.returncode}'
                              f'{": " if lines else ""}{lines[-1] if lines else ""}')
        return result.stdout

    def run(self, command, timeout=600):
        """Output of a shell command in the folder of the device."""
        return self.call(
            [*self.shell, f'cd {shlex.quote(str(self.folder))} && '
             f'LD_LIBRARY_PATH=. {command}'], timeout)

    def name(self):
        """Name of the device, which shows that it answers."""
        return self.call([*self.shell, 'getprop ro.product.model 2> /dev/null || '
                          'uname -n -m']).strip()

    def send(self):
        """Copy all models to the device."""
        if self.copy:
            self.call([*self.shell, f'mkdir -p {shlex.quote(self.folder)}'])
            self.call([*self.copy, *sorted(self.models.iterdir()), self.target],
                      timeout=None)


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('models', type=Path, help='folder of --for-device')
    parser.add_argument(
        '--runner', default='local',
        help='the device: local (the default), this machine; adb or adb:SERIAL, a '
        'phone; ssh:HOST, another computer')
    parser.add_argument(
        '--command', help='command that measures a model and prints the time as one of '
        'the known programs does, with {file}, {folder}, {threads}, {runs}, {batch}, '
        '{channels}, {height} and {width}')
    parser.add_argument(
        '--folder', help='folder for the models on another device; default: '
        '/data/local/tmp/autonl_mm on a phone, autonl_mm_models by ssh')
    parser.add_argument('--threads', type=int, default=1, help='default 1')
    parser.add_argument(
        '--runs', type=int, default=20, help='runs of a model in a process, default 20')
    parser.add_argument(
        '--rounds', type=int, default=3, help='processes for each model, default 3')
    parser.add_argument(
        '--timeout', type=int, default=120, help='seconds for a process, default 120')
    parser.add_argument('--out', help='the table; default: MODELS/table.json')
    return parser.parse_args()


def default_command(engine, device):
    """The command that measures a model of an engine.

    Raises:
        ValueError: If the engine has no program for the device, or the program is not
            in the folder of the models.
    """
    if device.kind != 'adb':
        shutil.copy(STAND_IN, device.models)
        python = shlex.quote(sys.executable) if device.kind == 'local' else 'python3'
        return (f'{python} {STAND_IN.name} {{file}} --engine {engine} --threads '
                '{threads} --runs {runs} --shape {batch},{channels},{height},{width}')
    if engine not in PROGRAMS:
        raise ValueError(f'no benchmark program of {engine} is known for Android: give '
                         '--command')
    program, arguments = PROGRAMS[engine]
    if not (device.models / program).exists():
        raise ValueError(f"{device.models / program} does not exist: copy the engine's "
                         'program for Android there, and the libraries that it needs')
    return f'./{program} {arguments}'


def parse_ms(text):
    """Milliseconds of a run, from the output of a benchmark program.

    Raises:
        DeviceError: If there is no time in it, or the time is 0.
    """
    for pattern, unit in TIMES:
        for match in [*re.finditer(pattern, text)][-1:]:
            found = match.groupdict()
            ms = float(found['time']) * unit / float(found.get('runs', 1))
            if not ms > 0:
                raise DeviceError('its program says 0 ms: the model failed, or is '
                                  "faster than the program's clock")
            return ms
    lines = text.strip().splitlines() or ['nothing']
    raise DeviceError(f'its program printed no time, but {lines[-1]}')


def open_table(args, command, name):
    """The table of a stopped run, or a new one.

    Raises:
        ValueError: If the table is of other models, settings or another device.
    """
    table = dict(
        read_table(args.models / MANIFEST), device=name,
        settings=dict(threads=args.threads, runs=args.runs, command=command))
    for row in table['files']:
        if not (args.models / row['file']).exists():
            raise ValueError(f'{args.models / row["file"]} does not exist: run '
                             'measure_latency.py --for-device again, which continues')
    if not Path(args.out).exists():
        return table
    stopped = read_table(args.out)
    for key in ('engine', 'cfgs', 'device', 'settings'):
        if stopped.get(key) != table[key]:
            raise ValueError(f'{args.out} has {key} {stopped.get(key)}, this run '
                             f'{table[key]}: give another file by --out')
    names = [[(row['file'], row.get('key'), row.get('arch')) for row in t['files']]
             for t in (stopped, table)]
    if names[0] != names[1]:
        raise ValueError(f'{args.out} is of other models than {args.models}: give '
                         'another file by --out')
    return stopped


def measure(table, device, args):
    """Add the missing times to the table, and save it after each.

    Raises:
        DeviceError: If the device does not answer any more, or the first three models
            are refused.
    """
    refused = []
    for count in range(1, args.rounds + 1):
        for row in tqdm(table['files'], desc=f'round {count}', leave=False):
            times = row.setdefault('ms', [])
            if len(times) >= count or row in refused:
                continue
            batch, channels, height, width = row['shape']
            command = table['settings']['command'].format(
                file=row['file'], folder=Path(row['file']).parent, threads=args.threads,
                runs=args.runs, batch=batch, channels=channels, height=height,
                width=width)
            try:
                times.append(parse_ms(device.run(command, args.timeout)))
                row.pop('refused', None)
            except DeviceError as e:
                device.name()
                row['refused'] = str(e)
                refused.append(row)
                print(f'refused: {row["file"]} ({row.get("key", "a whole network")}): '
                      f'{e}')
            atomic_write(args.out, json.dumps(table, indent=1))
            if len(refused) == 3 and not any(r.get('ms') for r in table['files']):
                raise DeviceError('the first 3 models were refused: does the program '
                                  'run on the device?')
    return refused


def main():
    args = parse_args()
    args.out = args.out or args.models / 'table.json'
    try:
        configs.check_positive(args, 'threads', 'runs', 'rounds', 'timeout')
        outputs.check_file('--out', args.out)
        device = Device(args.runner, args.models, args.folder)
        engine = read_table(args.models / MANIFEST)['engine']
        command = args.command or default_command(engine, device)
        table = open_table(args, command, device.name())
        device.send()
        refused = measure(table, device, args)
    except DeviceError as e:
        sys.exit(f'run_on_device.py: the device does not answer or fails ({e}). Times '
                 f'so far are in {args.out}; the same command continues')
    except (OSError, ValueError) as e:
        sys.exit(f'run_on_device.py: {e}')
    except KeyboardInterrupt:
        sys.exit(f'run_on_device.py: stopped. Times so far are in {args.out}; the same '
                 'command continues')
    if refused:
        sys.exit(f'run_on_device.py: {len(refused)} of {len(table["files"])} models '
                 f'were refused, see above; {args.out} has the remaining times')
    print(f'{args.out}: {len(table["files"])} models on {table["device"]}. Next: '
          f'tools/analysis_tools/measure_latency.py CONFIG --from-device {args.out}')


if __name__ == '__main__':
    main()
