"""Two processes on the CPU. All cases share one start of both."""

import math
import os
import tempfile
from argparse import Namespace
from pathlib import Path
from unittest import mock

import pytest
import timm
import torch
import torch.distributed as dist
from timm.data.distributed_sampler import OrderedDistributedSampler
from timm.optim import create_optimizer_v2
from timm.task import ClassificationTask
from timm.task.evaluator import ClassificationEvaluator
from torch.utils.data import DataLoader, TensorDataset

from keepaug.augment import Compose, create_augment
from keepaug.augment.recycled import SaliencyMaps
from keepaug.console import RunFailed
from keepaug.files import locks
from keepaug.functional import input_saliency
from keepaug.record.run_folder import open_output_dir
from keepaug.training import recycling
from keepaug.training.augmented_task import AugmentedTask
from keepaug.training.forward import Forward
from keepaug.training.loop import LoopSettings, train_one_epoch
from keepaug.training.recycling import RecyclingTask, exchange_maps
from keepaug.training.validation_pass import share_statistics, validate
from keepaug.validation.processes import gather_rows
from keepaug.validation.scores import AveragedScore
from tests.functional.toys import small_cnn
from tests.processes import PROCESSES, free_ports, run_together
from tests.scripts import TINY, run_train, write_images
from tests.test_exact_resume import assert_same_run

pytestmark = pytest.mark.xdist_group('processes')

WORLD_SIZE = 2


def _train_with_keep_cut(rank: int) -> dict:
    """Three batches in two updates, the second of a trailing group of one batch."""
    torch.manual_seed(rank)
    model = timm.create_model('test_resnet', num_classes=3)
    augment = create_augment('keep-cut', model=model, size=8)
    task = AugmentedTask(ClassificationTask(model, verbose=False), Compose([augment]))
    optimizer = create_optimizer_v2(model, opt='sgd', lr=0.1)
    task.prepare_distributed()
    start = [parameter.clone() for parameter in model.parameters()]
    batches = [(torch.randn(4, 3, 32, 32), torch.randint(3, (4,))) for _ in range(3)]
    settings = LoopSettings(world_size=WORLD_SIZE, rank=rank, grad_accum_steps=2)
    loss = train_one_epoch(0, task, batches, optimizer, settings)['loss']
    moved = any(not torch.equal(before, after) for before, after in zip(start, model.parameters()))
    own = [buffer.clone() for buffer in model.buffers()]
    share_statistics(task, LoopSettings(world_size=WORLD_SIZE, dist_bn='reduce'))
    return dict(
        weights=list(model.parameters()),
        boxes=augment.last['boxes'],
        loss=loss,
        moved=moved,
        own_statistics=own,
        statistics=list(model.buffers()),
    )


def _train_with_features_mixed(rank: int) -> dict:
    """Processes draw stages of their own; compiled, then distributed, as the script does it."""
    model = small_cnn(classes=3)
    mixer = create_augment('feature-cutmix', model=model, num_classes=3, mixing='elem')
    mixer.check_images(torch.zeros(1, 3, 16, 16))
    task = AugmentedTask(ClassificationTask(model, verbose=False), Compose([mixer]))
    optimizer = create_optimizer_v2(model, opt='sgd', lr=0.1)
    task.compile(backend='aot_eager')
    task.prepare_distributed()
    names = list(model.state_dict())
    torch.manual_seed(rank)
    batches = [(torch.randn(4, 3, 16, 16), torch.randint(3, (4,))) for _ in range(3)]
    settings = LoopSettings(world_size=WORLD_SIZE, rank=rank, grad_accum_steps=2)
    loss = train_one_epoch(0, task, batches, optimizer, settings)['loss']
    same_state = names == list(model.state_dict())
    return dict(weights=list(model.parameters()), lam=mixer.last['lam'], loss=loss, same_state=same_state)


def _saliency_on_one_rank(rank: int) -> dict:
    """A pass that called a collective would wait for the other process for ever."""
    model = timm.create_model('test_resnet', num_classes=3)
    task = ClassificationTask(model, verbose=False).prepare_distributed()
    if rank == 0:
        saliency = input_saliency(model, torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))
        assert saliency.amax() > 0
    dist.barrier()
    # DDP's reducer has not been disturbed: the first real step still synchronises gradients.
    task(torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))['loss'].backward()
    return dict(gradients=[parameter.grad for parameter in model.parameters()])


def _validate_together(rank: int, world_size: int = WORLD_SIZE) -> dict:
    """Seven images, of which two processes get four each."""
    torch.manual_seed(0)
    model, x, target = small_cnn(classes=3), torch.randn(7, 3, 16, 16), torch.tensor([0, 1, 2, 0, 1, 2, 2])
    images = TensorDataset(x, target)
    loader = DataLoader(images, 3, sampler=OrderedDistributedSampler(images, world_size, rank))
    score = AveragedScore('macro', 3)
    metrics = validate(
        model, loader, ClassificationEvaluator(), Forward(), observers=[score.update], world_size=world_size
    )
    return {**metrics, **score.compute()}


def _train_without_numbers(rank: int) -> dict:
    """The loss of all processes counts: each has numbers where one has."""

    def train(value: float) -> str:
        model = torch.nn.Linear(1, 1)
        task = ClassificationTask(model, criterion=lambda output, target: output.mean() * value, verbose=False)
        settings = LoopSettings(world_size=WORLD_SIZE, rank=rank)
        batches = [(torch.ones(2, 1), torch.zeros(2, dtype=torch.long))] * 2
        try:
            loss = train_one_epoch(0, task, batches, torch.optim.SGD(model.parameters(), lr=0.0), settings)['loss']
        except RunFailed:
            return 'ends'
        return 'not finite' if math.isnan(loss) else 'finite'

    return dict(one=train(math.nan if rank else 1.0), both=train(math.nan), none=train(1.0))


def _hold_a_folder(rank: int) -> dict:
    """Both processes hold it, the first one to end leaves the lock file, and what the first is refused, both are."""
    shared = [tempfile.mkdtemp() if rank == 0 else None]
    dist.broadcast_object_list(shared)
    args = Namespace(distributed=True, rank=rank, output=shared[0], experiment='run', resume='')
    place = open_output_dir(args, 'lr: 1', {}, 0)
    dist.barrier()
    path = os.path.join(place, locks.LOCK)
    holders = [int(line.split()[1]) for line in open(path)]
    dist.barrier()
    if rank:
        locks.release_folders()
    dist.barrier()
    left = os.path.exists(path)
    dist.barrier()
    locks.release_folders()
    args.output = os.path.join(place, 'args.yaml')  # no folder
    with pytest.raises(ValueError, match='cannot be written') as refused:
        open_output_dir(args, '', {}, 0)
    return dict(
        place=place,
        process=os.getpid(),
        holders=holders,
        left=left,
        refused=str(refused.value),
        files=sorted(os.listdir(place)),
    )


def _resume_with_other_records(rank: int) -> dict:
    """The first process alone has records, and both are refused; nothing is written."""
    shared = [tempfile.mkdtemp() if rank == 0 else None]
    dist.broadcast_object_list(shared)
    folder = Path(shared[0])
    if rank == 0:
        (folder / 'labels.csv').write_text('1')
    args = Namespace(
        distributed=True, rank=rank, output=str(folder.parent), experiment=folder.name, resume=f'{folder}/last.pth.tar'
    )
    with pytest.raises(ValueError, match='continues a run that had another .*labels.csv') as refused:
        open_output_dir(args, 'lr: 1', {}, 1, None if rank else {'labels.csv': '2'})
    return dict(refused=str(refused.value), files=os.listdir(folder))


def _gather(rank: int) -> dict:
    """The first process has two rows, the second one has one, then none."""
    rows = torch.tensor([[0.1, 1.0], [2.0, math.nan], [4.0, 5.0]])
    return dict(
        rows=rows, uneven=gather_rows(rows[2:] if rank else rows[:2]), empty=gather_rows(rows[:0] if rank else rows)
    )


def _exchange_maps(rank: int) -> dict:
    """Of five images the first process sees 0, 1, the second 1, 2; both had seen 3 before. They go in three parts."""
    maps = SaliencyMaps(5, cells=2)
    augment = create_augment('keep-cut', size=4, saliency='recycled', maps=maps)
    task = RecyclingTask(ClassificationTask(small_cnn(), verbose=False), Compose([augment]))
    where = torch.tensor([[i, 8, 8, 0, 0, 8, 8, 0, 0] for i in range(5)])
    maps.write(where[3:4], torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    maps.written.zero_()
    saliency = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(rank))
    maps.write(where[rank : rank + 2], saliency)
    before = maps.levels.clone(), maps.scales.clone()
    with mock.patch.object(recycling, 'EXCHANGED', 2):
        exchange_maps(task)
    return dict(before=before, after=(maps.levels, maps.scales), left=maps.written.any())


EXACT = '--exact-resume --resume auto --model-ema --aug-repeats 2 --reprob 0.5 --mixup 0.2 --keep-cut --keep-size 8'
RECYCLED = '--exact-resume --resume auto --keep-cut --keep-size 8 --keep-saliency recycled --train-crop-mode pad4'
UDA = '--exact-resume --resume auto --uda --uda-labels 8 --uda-ratio 1 --uda-tsa log --aa rand-m9 --keep-paste'
UDA += ' --keep-size 8'
# Runs of train.py as torchrun starts it, by folder; the first validates on a set that two processes cannot share
# evenly.
SCRIPTS = [
    (
        'run',
        '-vb 4 --epochs 1 --keep-cut --keep-size 8 --keep-paste --aa rand-m9 --model-ema '
        '--joint-occlusion --augment-copies 2 --refine-epochs 1',
    ),
    ('early', '--epochs 1 --keep-cut --keep-size 8 --keep-saliency low-early --log-tensorboard'),
    ('early', '--epochs 2 --early-exit --resume {folder}/early/last.pth.tar'),
    ('whole', EXACT),
    ('parts', EXACT + ' --stop-epoch 1'),
    ('parts', EXACT),
    ('recycled-whole', RECYCLED),
    ('recycled-parts', RECYCLED + ' --stop-epoch 1'),
    ('recycled-parts', RECYCLED),
    ('uda-whole', UDA),
    ('uda-parts', UDA + ' --stop-epoch 1'),
    ('uda-parts', UDA),
]


CASES = {
    'train': _train_with_keep_cut,
    'features': _train_with_features_mixed,
    'saliency': _saliency_on_one_rank,
    'validation': _validate_together,
    'numbers': _train_without_numbers,
    'folder': _hold_a_folder,
    'records': _resume_with_other_records,
    'gathered': _gather,
    'maps': _exchange_maps,
}


def _process(rank: int, folder: Path, ports: list[int], both_done) -> None:
    dist.init_process_group('gloo')
    results = {name: case(rank) for name, case in CASES.items()}
    dist.destroy_process_group()
    for port, (name, flags) in zip(ports, SCRIPTS, strict=True):
        os.environ['MASTER_PORT'] = str(port)  # on the same one, a process may still meet the run before
        run_train(f'{folder / "images"} {TINY} -b 4 {flags.format(folder=folder)}', folder, name)
        both_done.wait()  # only the first process writes the checkpoint that both resume
    torch.save(results, folder / f'rank{rank}.pt')


@pytest.fixture(scope='module')
def processes(tmp_path_factory):
    """The folder of the runs, and the results of both processes by case."""
    folder = tmp_path_factory.mktemp('ranks')
    write_images(folder / 'images', per_class=5)
    run_together(WORLD_SIZE, _process, folder, free_ports(len(SCRIPTS)), PROCESSES.Barrier(WORLD_SIZE))
    return folder, [torch.load(folder / f'rank{rank}.pt', weights_only=False) for rank in range(WORLD_SIZE)]


@pytest.fixture(scope='module')
def ranks(processes):
    return processes[1]


def test_processes_agree_on_weights_and_loss(ranks):
    one, other = (rank['train'] for rank in ranks)
    assert one['moved']
    assert all(torch.equal(a, b) for a, b in zip(one['weights'], other['weights'], strict=True))
    assert one['loss'] == other['loss']


def test_processes_share_statistics(ranks):
    one, other = (rank['train'] for rank in ranks)
    assert not all(torch.equal(a, b) for a, b in zip(one['own_statistics'], other['own_statistics'], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(one['statistics'], other['statistics'], strict=True))


def test_processes_draw_their_own_regions(ranks):
    one, other = (rank['train']['boxes'] for rank in ranks)
    assert not torch.equal(one, other)


def test_processes_mix_features_by_themselves_and_agree_on_weights(ranks):
    one, other = (rank['features'] for rank in ranks)
    assert all(torch.equal(a, b) for a, b in zip(one['weights'], other['weights'], strict=True))
    assert one['loss'] == other['loss'] and one['same_state']
    assert not torch.equal(one['lam'], other['lam'])


def test_saliency_calls_no_collective(ranks):
    one, other = (rank['saliency']['gradients'] for rank in ranks)
    assert all(torch.allclose(a, b) for a, b in zip(one, other, strict=True))


def test_a_shared_validation_is_that_of_one_process(ranks):
    alone = _validate_together(rank=0, world_size=1)
    for rank in ranks:
        assert rank['validation'] == pytest.approx(alone)


def test_a_run_ends_where_no_process_has_a_finite_loss(ranks):
    assert [rank['numbers'] for rank in ranks] == [dict(one='not finite', both='ends', none='finite')] * WORLD_SIZE


def test_every_process_holds_the_folder(ranks):
    one, other = (rank['folder'] for rank in ranks)
    assert one['holders'] == other['holders'] == [one['process'], other['process']]
    assert one['left'] and other['left']
    assert one['files'] == ['args.yaml'] and one['place'] == other['place']
    assert one['refused'] == other['refused']


def test_other_records_are_refused_to_every_process(ranks):
    one, other = (rank['records'] for rank in ranks)
    assert one == other and one['files'] == ['labels.csv']


def test_rows_are_gathered_in_order(ranks):
    for rank in ranks:
        gathered = rank['gathered']
        for rows in gathered['uneven'], gathered['empty']:
            assert rows.dtype == torch.float32 and torch.equal(rows.nan_to_num(), gathered['rows'].nan_to_num())


def test_whole_script(processes):
    run = processes[0] / 'run'
    names = {path.name for path in run.iterdir()}
    assert {'last.pth.tar', 'model_best.pth.tar', 'summary.csv', 'args.yaml'} <= names and locks.LOCK not in names
    rows = (run / 'summary.csv').read_text().splitlines()
    assert len(rows) == 3 and 'augmented' in rows[1] and 'refined' in rows[2]
    # 15 validation images: padding for the second process must not count.
    top1 = float(rows[1].split(',')[3])
    assert top1 * 15 / 100 == pytest.approx(round(top1 * 15 / 100), abs=1e-6)


def test_early_head_is_trained_by_both_and_resumes(processes):
    state = torch.load(processes[0] / 'early' / 'last.pth.tar', weights_only=False)
    assert state['epoch'] == 1 and set(state['task_state']) == {'early_exit', 'early_exit_optimizer'}
    assert not any(name.startswith(('module.', 'backbone.', 'head.')) for name in state['state_dict'])


def test_processes_exchange_maps(ranks):
    one, other = (rank['maps'] for rank in ranks)
    for mine, yours, together, same in zip(one['before'], other['before'], one['after'], other['after']):
        assert torch.equal(together, same)
        assert not torch.equal(mine[1], yours[1])
        # The lower rank wins; what nobody saw in the epoch stays.
        assert torch.equal(together, torch.stack([mine[0], mine[1], yours[2], mine[3], mine[4]]))
        assert (together[4] == 0).all()
    assert not one['left'] and not other['left']


def test_exact_resume_of_recycled_saliency(processes):
    folder = processes[0]
    assert_same_run(folder / 'recycled-whole', folder / 'recycled-parts')
    maps = [torch.load(folder / name / 'saliency-maps-1.pt') for name in ('recycled-whole', 'recycled-parts')]
    assert all(torch.equal(maps[0][part], maps[1][part]) for part in maps[0])
    assert (maps[0]['levels'] > 0).flatten(1).any(1).sum() >= 14


def test_exact_resume_of_unlabelled_images(processes):
    assert_same_run(processes[0] / 'uda-whole', processes[0] / 'uda-parts')


def test_exact_resume(processes):
    assert_same_run(processes[0] / 'whole', processes[0] / 'parts')
