"""Trains every arm of a study with several seeds and reports after every run.

keepaug-study papers/keepaugment/table1 --slots cuda:0 cuda:1 -- --data-dir /data/cifar10

or, in a checkout, `python -m keepaug.study ...`.
"""

import argparse
import logging
import queue
import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from timm.utils import setup_default_logging

from keepaug.console.errors import first_line
from keepaug.files.locks import hold_folder, releasing_folders
from keepaug.files.outputs import check_output_folder
from keepaug.installation import command
from keepaug.machine import describe_machine
from keepaug.study.flags import check, parse
from keepaug.study.forecast import forecast
from keepaug.study.plan import plan_runs
from keepaug.study.runs import LOOK, Slot, StudyRun
from keepaug.study.study import Study, read_study

_logger = logging.getLogger('study')


def main(argv: Sequence[str] | None = None) -> None:
    setup_default_logging()
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index('--') if '--' in words else len(words)
    flags = words[end + 1 :]
    args = parse(words[:end], flags)
    check(args)
    here = not (args.list or args.collect or args.slurm is not None)
    slots = [Slot.read(text) for text in args.slots]
    for slot in slots if here else ():
        slot.check()
    study = read_study(args.file)
    output = args.output or Path('output') / 'studies' / study.name
    runs = plan_runs(study, output, args.seeds or study.seeds, args.arms, args.scale, flags, here)
    if args.list:
        if output.is_file():
            raise ValueError(f'--output {output} is a file: name a folder.')
        own = [word for word in words[:end] if word != '--list']
        for run in runs:
            chosen = ['--only', f'{run.arm.name}:{run.seed}', '--', *flags]
            print(shlex.join([*command('study'), *own, *chosen]))
        return
    if args.collect and not any(run.outcome for run in runs):
        raise ValueError(f'--collect finds no run of this study in {output}: name the folder of its runs by --output.')
    if args.only:
        runs = [find_run(runs, args.only)]
    check_output_folder(str(output), '--output')
    output.mkdir(parents=True, exist_ok=True)
    title = scaled_title(study, runs, args.scale)
    reporter = Reporter(study, runs, output, title, slots)
    if args.only:
        carry_out_one(runs[0], slots[0])
    elif args.slurm is not None:
        submit(runs, args, words[:end], flags, output)
    elif args.collect:
        reporter.show()
    else:
        with releasing_folders():
            hold_folder(str(output), '--output')
            if args.sheets:
                draw_sheets(runs, output)
            Scheduler(runs, slots, reporter).run()


def scaled_title(study: Study, runs: Sequence[StudyRun], scale: float) -> str:
    """The title of a report, which says what was scaled; data that are read by name alone stay whole."""
    if scale == 1.0:
        return study.heading
    data = all(run.share or '--train-num-samples' in run.words for run in runs)
    return f'{study.heading} ({"epochs and data" if data else "epochs"} at {scale:g} of their size)'


class Reporter:
    """Writes the report of a study from what its runs have left.

    Args:
        study: The study.
        runs: Its runs.
        output: Folder of the report.
        title: Its title.
        slots: Where it runs.
    """

    def __init__(self, study: Study, runs: Sequence[StudyRun], output: Path, title: str, slots: Sequence[Slot]):
        self.study, self.runs, self.output, self.title, self.slots = study, runs, output, title, len(slots)
        self.machine = describe_machine(slots[0].device)

    def forecast(self) -> str:
        """How long the study takes at full scale; empty where that is no question, or no two epochs are known."""
        if self.title == self.study.heading and all(run.done for run in self.runs):
            return ''
        return forecast(self.study, self.runs, self.slots)

    def write(self) -> None:
        """Writes the files."""
        from keepaug.study.report import write_report

        write_report(self.study, self.runs, self.output, self.title, self.machine, self.forecast())

    def show(self) -> None:
        """Writes the files, and the tables to the screen."""
        self.write()
        print((self.output / 'table.md').read_text(), flush=True)
        if told := self.forecast():
            _logger.info(told)
        _logger.info(f'Report: {self.output / "report.html"}')


class Scheduler:
    """Carries out the runs of a study, each slot one at a time.

    Args:
        runs: The runs in their order; those that are done are passed over, those that failed are tried again.
        slots: Where they are carried out.
        reporter: Writes the report after each.
    """

    def __init__(self, runs: Sequence[StudyRun], slots: Sequence[Slot], reporter: Reporter):
        self.runs, self.slots, self.reporter = runs, slots, reporter
        self.todo: queue.SimpleQueue[StudyRun] = queue.SimpleQueue()
        self.ended: queue.SimpleQueue[tuple[StudyRun, bool] | Exception | None] = queue.SimpleQueue()
        self.stop = threading.Event()

    def run(self) -> None:
        """Carries out what is not done yet.

        Raises:
            KeyboardInterrupt: It was told to stop; the runs in progress have saved what they had.
            ValueError: A run failed; the others were carried out.
        """
        todo = [run for run in self.runs if not run.done]
        for run in todo:
            self.todo.put(run)
        _logger.info(f'{len(self.runs) - len(todo)} of {len(self.runs)} runs are done.')
        workers = [threading.Thread(target=self._work, args=(slot,)) for slot in self.slots]
        for worker in workers:
            worker.start()
        try:
            self._follow(len(workers))
        except BaseException:
            self.stop.set()
            for worker in workers:
                worker.join()
            _logger.info('Stopped. The same command continues each run where it stopped.')
            raise
        self.reporter.show()
        failed = [run.folder.name for run in self.runs if not run.done]
        if failed:
            raise ValueError(
                f'{len(failed)} of {len(self.runs)} runs failed ({", ".join(failed)}); run.log in their folders says '
                'why. The same command tries them again.'
            )

    def _work(self, slot: Slot) -> None:
        while not self.stop.is_set():
            try:
                run = self.todo.get_nowait()
            except queue.Empty:
                break
            try:
                self.ended.put((run, run.carry_out(slot, self.stop)))
            except Exception as error:  # a full disk, say; `_follow` raises it
                self.ended.put(error)
        self.ended.put(None)

    def _follow(self, working: int) -> None:
        """Says once how long it takes, and reports on every run that ends, until no slot works any more."""
        told = False
        while working:
            try:
                ended = self.ended.get(timeout=None if told else LOOK)
            except queue.Empty:
                if sentence := self.reporter.forecast():
                    _logger.info(sentence)
                    told = True
                continue
            if ended is None:
                working -= 1
                continue
            if isinstance(ended, Exception):
                raise ended
            run, done = ended
            reason = '' if done else f' failed: {run.outcome.get("reason", "")}'
            _logger.info(f'{run.arm.name}, seed {run.seed}{reason or ", is done"}. {self._left()}')
            try:
                self.reporter.write()
            except Exception as error:  # a report that cannot be drawn is no reason to train no further
                _logger.warning(f'The report could not be written ({first_line(error)}); the runs go on.')

    def _left(self) -> str:
        seconds = [run.outcome['seconds'] for run in self.runs if run.done]
        left = sum(not run.outcome for run in self.runs)
        if not seconds or not left:
            return f'Runs left: {left}.'
        time = left * sum(seconds) / len(seconds) / len(self.slots)
        return f'Runs left: {left}, about {timedelta(seconds=round(time))}.'


def find_run(runs: Sequence[StudyRun], name: str) -> StudyRun:
    """The run of `--only`.

    Raises:
        ValueError: There is none of this name.
    """
    run = next((run for run in runs if f'{run.arm.name}:{run.seed}' == name), None)
    if run is None:
        raise ValueError(f'--only {name} is not a run of this study: choose one that --list prints.')
    return run


def carry_out_one(run: StudyRun, slot: Slot) -> None:
    """Carries out a run that is not done.

    Raises:
        ValueError: It failed.
    """
    if not run.done and not run.carry_out(slot, threading.Event()):
        raise ValueError(f'{run.folder.name} failed: {run.outcome.get("reason")}')


def submit(
    runs: Sequence[StudyRun],
    args: argparse.Namespace,
    words: Sequence[str],
    flags: Sequence[str],
    output: Path,
) -> None:
    """Submits the runs that are not done, one job each, in their order."""
    import submitit

    executor = submitit.AutoExecutor(folder=output / 'jobs', cluster=args.cluster)
    parameters = dict(pair.partition('=')[::2] for pair in args.slurm)
    try:
        executor.update_parameters(
            **{name: int(value) if value.isdecimal() else value for name, value in parameters.items()}
        )
    except (AssertionError, NameError, TypeError, ValueError) as error:
        raise ValueError(
            f'--slurm {" ".join(args.slurm)} is refused by submitit ({first_line(error)}): give its parameters as '
            'KEY=VALUE, such as timeout_min=600.'
        ) from error
    own = list(words)
    for flag, values in (('--slurm', len(args.slurm)), ('--cluster', 1)):  # a job submits nothing
        own = [word for word in own if not word.startswith(f'{flag}=')]
        if flag in own:
            place = own.index(flag)
            del own[place : place + 1 + values]
    jobs = []
    for run in runs:
        if not run.done:
            chosen = ['--only', f'{run.arm.name}:{run.seed}', '--', *flags]
            command = [sys.executable, '-m', 'keepaug.study', *own, *chosen]
            jobs.append(executor.submit(subprocess.run, command, check=True))
    _logger.info(f'{len(jobs)} runs were submitted. Collect their results with --collect in place of --slurm.')
    if args.cluster in ('local', 'debug'):
        for job in jobs:
            job.wait()


def draw_sheets(runs: Sequence[StudyRun], output: Path) -> None:
    """Draws what each arm does to an image, as far as it can be shown without training."""
    (output / 'sheets').mkdir(exist_ok=True)
    for arm, run in {run.arm: run for run in runs}.items():
        sheet = output / 'sheets' / f'{arm.folder}.png'
        if sheet.exists():
            continue
        run.make_data()
        command = [
            sys.executable,
            '-m',
            'keepaug.preview',
            *run.words,
            '--device',
            'cpu',
            '--preview-images',
            '4',
            '--preview-output',
            str(sheet),
        ]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            reason = (result.stderr.strip().splitlines() or ['no reason given'])[-1]
            _logger.warning(f'{arm.name} has no sheet: {reason}')
