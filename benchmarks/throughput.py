"""The whole script against stock timm's: images per second, time to the first step, memory, and start-up.

    python benchmarks/throughput.py --stock /src/pytorch-image-models/train.py
    python benchmarks/throughput.py --stock ... --model resnet50 -b 128 --workers 8 -- --device cuda --amp

Every row is one set of flags that both scripts get, and what ours gets on top. Both train on the same folder of JPEGs,
written for the purpose; stock and ours alternate, each goes first in every other round, and ours is divided by stock of
the same round, so that drift of the machine cancels. What stands behind `--` goes to every run.

`images per second`: between the first and the last line of the log of an epoch, by the clock of whoever reads them; the
first epoch does not count. `first step`: from the start of the process to its first training line. `memory`: most that
the process and its loader workers hold at once, with pages that they share counted in each. `--help` and `--check`:
seconds of processor time, of our script beside stock's `--help`. `listing`: seconds of processor time to check and
list 200,000 files in 2,000 classes, beside what stock does, which only lists them. Printed are medians over the rounds
and the lowest and highest ratio.
"""

import argparse
import os
import re
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from loader_cost import write_photos
from records import add_record
from timm.data import create_dataset

import keepaug
from keepaug import data, options
from keepaug.machine import describe_machine

OURS = Path(__file__).parents[1] / 'train.py'
# Flags of both, and what ours gets on top.
ROWS = {
    'our flags off': ('', ''),
    'keep-cut recycled': ('', '--keep-cut --keep-saliency recycled'),
    'keep-cut low': ('', '--keep-cut --keep-saliency low'),
    'keep-paste': ('--aa rand-m9-mstd0.5', '--keep-paste'),
}
# The first and the last step of an epoch are logged whatever the interval; in between nobody waits for the device.
LOG_INTERVAL = 1_000_000
STEP = re.compile(r'Train: (\d+) \[\s*(\d+)/(\d+) ')
KILOBYTE = 1024


class Measured(NamedTuple):
    """What one run of a script showed from outside.

    Attributes:
        rate: Images per second.
        first_step: Seconds.
        memory: Bytes.
    """

    rate: float
    first_step: float
    memory: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--stock', type=Path, required=True, help="timm's own train.py")
    parser.add_argument('--ours', type=Path, default=OURS, help='train.py to compare with it')
    parser.add_argument('--rows', nargs='+', choices=ROWS, default=list(ROWS))
    parser.add_argument('--workers', type=int, nargs='+', default=[0, 2], help='loader workers, one column each')
    parser.add_argument('--rounds', type=int, default=5, help='pairs of runs per row')
    parser.add_argument('--model', default='resnet18')
    parser.add_argument('--img-size', type=int, default=224, help='pixels')
    parser.add_argument('-b', '--batch-size', type=int, default=32)
    parser.add_argument('--images', type=int, default=512, help='JPEGs of the training set')
    parser.add_argument('--epochs', type=int, default=3, help='the first of them does not count')
    parser.add_argument('--files', type=int, default=200_000, help='files to list, in a hundredth as many classes')
    parser.add_argument('--output', type=Path, help='JSON file the results are added to')
    parser.add_argument('flags', nargs=argparse.REMAINDER, help='flags of both scripts, behind --')
    args = parser.parse_args()
    if args.images < 2 * args.batch_size or args.epochs < 2:
        parser.error('An epoch needs two batches, and the first does not count: raise --images or --epochs.')

    with tempfile.TemporaryDirectory() as folder:
        for split, count in (('train', args.images), ('val', args.batch_size)):
            os.mkdir(f'{folder}/{split}')
            write_photos(Path(folder, split), count)
        rows = measure_rows(args, Path(folder))
    start = measure_start(args)
    report = dict(
        model=args.model,
        img_size=args.img_size,
        batch_size=args.batch_size,
        images=args.images,
        rounds=args.rounds,
        flags=shared_flags(args),
        machine=describe_machine(),
        date=time.strftime('%Y-%m-%d'),
        rows=rows,
        start=start,
    )
    print_report(report)
    if args.output:
        add_record(args.output, report)


def shared_flags(args) -> str:
    """What stands behind `--`."""
    return shlex.join(flag for flag in args.flags if flag != '--')


def measure_rows(args, folder: Path) -> dict[str, dict]:
    """Medians of both scripts and their ratio, by row and number of workers; a row that ours refuses says why."""
    common = (
        f'--data-dir {folder} --model {args.model} --img-size {args.img_size} --num-classes 2 -b {args.batch_size} '
        f'--epochs {args.epochs} --warmup-epochs 0 --log-interval {LOG_INTERVAL} {shared_flags(args)}'
    )
    rows = {}
    for name in args.rows:
        both, more = ROWS[name]
        refused = subprocess.run(
            [sys.executable, args.ours, *shlex.split(f'{common} {both} {more} --check')], capture_output=True, text=True
        )
        if refused.returncode:
            rows[name] = dict(refused=refused.stderr.strip().splitlines()[-1])
            continue
        for workers in args.workers:
            flags = f'{common} {both} -j {workers} --output {folder}/runs'
            pairs = []
            for number in range(args.rounds):
                scripts = [('stock', args.stock, ''), ('ours', args.ours, more)]
                pairs.append(
                    {
                        script: run(path, f'{flags} {own}', args.batch_size)
                        for script, path, own in (scripts if number % 2 == 0 else reversed(scripts))
                    }
                )
            rows[f'{name}, {workers} workers'] = {
                what: compare([(getattr(pair['stock'], what), getattr(pair['ours'], what)) for pair in pairs])
                for what in Measured._fields
            }
    return rows


def run(script: Path, flags: str, batch_size: int) -> Measured:
    """Runs a script to its end, reading its log as it comes.

    Raises:
        RuntimeError: It failed, or logged no steps.
    """
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, script, *shlex.split(flags)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    held = [0]
    watching = threading.Thread(target=watch_memory, args=(process, held), daemon=True)
    watching.start()
    lines, steps = [], []
    for line in process.stdout:
        lines.append(line)
        if found := STEP.search(line):
            steps.append((time.perf_counter(), *map(int, found.groups())))
    code = process.wait()
    watching.join()
    counted = [step for step in steps if step[1] > 0]
    if code or not counted:
        raise RuntimeError(f'{script} {flags} ended with status {code}:\n{"".join(lines[-20:])}')
    seconds = updates = 0.0
    for epoch in {step[1] for step in counted}:
        first, *_, last = [step for step in counted if step[1] == epoch]
        seconds += last[0] - first[0]
        updates += last[2] - first[2]
    return Measured(batch_size * updates / seconds, steps[0][0] - start, held[0])


def watch_memory(process: subprocess.Popen, held: list[int], interval: float = 0.2) -> None:
    """Keeps in `held[0]` the most bytes that a process and those below it hold, until it ends."""
    while process.poll() is None:
        held[0] = max(held[0], resident(process.pid))
        time.sleep(interval)


def resident(pid: int) -> int:
    """Bytes in memory of a process and of all below it; 0 where the system does not tell."""
    try:
        pages = int(Path(f'/proc/{pid}/statm').read_text().split()[1])
        below = Path(f'/proc/{pid}/task/{pid}/children').read_text().split()
    except (OSError, IndexError):  # it ended meanwhile, or there is no /proc
        return 0
    return pages * resource.getpagesize() + sum(resident(int(child)) for child in below)


def compare(pairs: list[tuple[float, float]]) -> dict[str, float]:
    """Medians of stock and of ours, and of their ratio its median, lowest and highest."""
    ratios = [ours / max(stock, 1e-9) for stock, ours in pairs]
    return dict(
        stock=round(statistics.median(stock for stock, _ in pairs), 4),
        ours=round(statistics.median(ours for _, ours in pairs), 4),
        ratio=round(statistics.median(ratios), 4),
        low=round(min(ratios), 4),
        high=round(max(ratios), 4),
        n=len(pairs),
    )


def measure_start(args) -> dict[str, dict]:
    """Processor seconds of `--help`, `--check` and listing; stock's `--help` stands beside our `--check`."""
    with tempfile.TemporaryDirectory() as folder:
        write_empty(Path(folder), args.files)
        check = [args.ours, '--check', '--data-dir', folder, '--device', 'cpu']
        return {
            '--help': compare(
                [(spent([args.stock, '--help']), spent([args.ours, '--help'])) for _ in range(args.rounds)]
            ),
            '--check': compare([(spent([args.stock, '--help']), spent(check)) for _ in range(args.rounds)]),
            'listing': compare(
                [
                    (timed(lambda: list_as_stock(folder)), timed(lambda: list_as_ours(folder)))
                    for _ in range(args.rounds)
                ]
            ),
        }


def write_empty(folder: Path, files: int) -> None:
    """An image folder of so many empty files, a hundred per class, for what only lists them."""
    for split, count in (('train', files), ('val', files // 50)):
        classes = max(1, files // 100)
        for label in range(classes):
            place = folder / split / f'class{label:05d}'
            place.mkdir(parents=True)
            for index in range(max(1, count // classes)):
                (place / f'{index}.jpg').touch()


def list_as_stock(folder: str) -> None:
    """What stock does with the folder before training."""
    for split, training in (('train', True), ('val', False)):
        create_dataset('', folder, split=split, is_training=training)


def list_as_ours(folder: str) -> None:
    """What our script does with it: checks, then data sets."""
    args, _ = options.parse_args(options.create_parser(), ['--data-dir', folder, '--device', 'cpu'])
    args = keepaug.prepare(args)
    args.rank = 0
    data.check_data_folder(args.dataset, args.data_dir)
    data.check_class_folders(args)
    config = dict(input_size=(3, 32, 32))
    data.build_train_dataset(args, config)
    data.build_eval_dataset(args, config)


def spent(command: list) -> float:
    """Seconds of processor time of a command of Python's."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def timed(call: Callable[[], None]) -> float:
    """Seconds of processor time of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def print_report(report: dict) -> None:
    print(f'{report["model"]}, {report["img_size"]} px, batch {report["batch_size"]}, {report["machine"]}')
    for name, row in report['rows'].items():
        if 'refused' in row:
            print(f'  {name}: not run. {row["refused"]}')
            continue
        print(f'  {name}, n = {row["rate"]["n"]}')
        for what, unit, scale in (
            ('rate', 'images per second', 1),
            ('first_step', 's to the first step', 1),
            ('memory', 'MiB of memory', KILOBYTE**-2),
        ):
            print_line(row[what], unit, scale)
    print('start-up')
    for name, row in report['start'].items():
        print_line(row, f's of {name}', 1)


def print_line(row: dict[str, float], unit: str, scale: float) -> None:
    print(
        f'    {row["ours"] * scale:9.2f} {unit}, stock {row["stock"] * scale:.2f}: ratio {row["ratio"]:.3f} '
        f'({row["low"]:.3f} to {row["high"]:.3f})'
    )


if __name__ == '__main__':
    main()
