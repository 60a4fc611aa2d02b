"""Runs whose saliency is recycled from step to step."""

import re

import pytest
import torch
from timm.task import ClassificationTask

import keepaug
from keepaug import options, preview
from keepaug.augment.recycled import SaliencyMaps
from keepaug.methods import all_methods
from keepaug.training import recycling
from keepaug.training.recycling import RecyclingTask
from tests.scripts import TINY, refuse_train, run_train, run_validate
from tests.sentences import says
from tests.test_exact_resume import assert_same, assert_same_run, checkpoint, train_both

RECYCLED = '--keep-cut --keep-size 8 --keep-saliency recycled'
# What may stand between the backward pass and the maps.
SETTINGS = {
    'plain': '',
    'no-prefetcher': '--no-prefetcher',
    'workers': '-j 2',
    'multi-epochs': '-j 1 --use-multi-epochs-loader',
    'pad4': '--train-crop-mode pad4',
    'rkrc': '--train-crop-mode rkrc --vflip 0.5',
    'rkrr': '--train-crop-mode rkrr',
    'no-aug': '--no-aug',
    'sizes': '--train-img-sizes 24 32',
    'copies': '--augment-copies 2 --no-prefetcher',
    'joint-occlusion': '--joint-occlusion saliency --augment-copies 2',
    'occlusion-only': '--joint-occlusion cutout --occlusion-only --occlusion-size 8 --occlusion-holes 1',
    'accumulation': '--grad-accum-steps 2 --clip-grad 1.0 --model-ema',
    'amp': '--amp --amp-dtype bfloat16',
    'half': '--model-dtype bfloat16',
    'channels-last': '--channels-last',
    'compiled': '--torchcompile aot_eager',
    'checkpointing': '--grad-checkpointing',
    'cutmix-beside': '--cutmix 1 --mixup-mode elem',
    'early-exit': '--early-exit',
    'repeats': '--epoch-repeats 2',
    'bce': '--bce-loss --smoothing 0',
    'vit': '--model test_vit --opt adamw',
    'non-square': '--input-size 3 32 40',
    'grey': '--in-chans 1',
    'sheets': '--log-tensorboard --watch-samples 4 --risk-samples 4',
}


@pytest.fixture
def run_maps(monkeypatch):
    """The maps of the run that a test makes, and how often they were read and written."""
    opened = []
    open_maps = recycling.open_maps

    def watched(task, dataset):
        open_maps(task, dataset)
        opened.append(task.maps)
        task.maps.reads = task.maps.writes = 0
        for name in ('read', 'write'):
            setattr(task.maps, name, counting(task.maps, name))

    def counting(maps, name):
        call = getattr(maps, name)

        def counted(*args):
            setattr(maps, f'{name}s', getattr(maps, f'{name}s') + 1)
            return call(*args)

        return counted

    monkeypatch.setattr('keepaug.training.open_maps', watched)
    return opened


@pytest.mark.parametrize('name', SETTINGS)
def test_every_image_gets_a_map(name, data, tmp_path, run_maps):
    shape = TINY.replace('--img-size 32', '') if name == 'non-square' else TINY
    run = run_train(f'{data} {shape} {RECYCLED} --epochs 1 {SETTINGS[name]}', tmp_path)
    (maps,) = run_maps
    assert len(maps) == 24
    mapped = (maps.levels > 0).flatten(1).any(1)
    assert mapped.all() or 'sizes' in name and mapped.sum() > 12
    assert maps.scales.isfinite().all() and (maps.scales[mapped] > 0).all()
    steps = 6 if name == 'repeats' else maps.writes
    assert maps.writes == steps >= 3 and maps.reads >= steps
    state = torch.load(run / 'last.pth.tar', weights_only=False)['state_dict']
    assert all(tensor.isfinite().all() for tensor in state.values())


@pytest.mark.parametrize('flags', ['', '--refine-plain --augment-copies 2 -j 1'])
def test_refined_epochs_neither_read_nor_write(flags, data, tmp_path, run_maps):
    run_train(f'{data} {TINY} {RECYCLED} --epochs 1 --refine-epochs 1 --risk-samples 0 {flags}', tmp_path)
    assert (run_maps[0].reads, run_maps[0].writes) == (3, 3)


def test_cutmix_that_is_off_neither_reads_nor_writes(data, tmp_path, run_maps):
    run_train(f'{data} {TINY} --keep-cut cutmix --keep-saliency recycled --epochs 2 --mixup-off-epoch 1', tmp_path)
    assert run_maps[0].writes == 3


def test_a_float16_scaler_does_not_count():
    """Its factor cancels, and gradients that it makes infinite leave the map as it is."""
    maps = SaliencyMaps(2)
    where = torch.tensor([[i, 8, 8, 0, 0, 8, 8, 0, 0] for i in range(2)])
    weight = torch.rand(2, 3, 8, 8)
    for factor, changes in ((1.0, True), (2.0**16, False), (float('inf'), False)):
        before = maps.levels.clone()
        (maps.listen(torch.zeros(2, 3, 8, 8), where) * weight * factor).sum().backward()
        assert torch.equal(before, maps.levels) != changes


@pytest.mark.parametrize('flags', ['', '--train-crop-mode pad4 -j 2 --augment-copies 2 --joint-occlusion'])
def test_stopped_run_ends_as_the_whole_one(flags, data, tmp_path):
    whole, parts = train_both(f'{data} {TINY} --epochs 3 {RECYCLED} {flags} --exact-resume', tmp_path, stops=(1, 2))
    assert_same_run(whole, parts)
    assert [path.name for path in sorted(parts.glob('saliency-maps*'))] == ['saliency-maps-2.pt']
    assert checkpoint(parts)['exact_resume']['maps'] == 'saliency-maps-2.pt'
    assert_same(*(torch.load(run / 'saliency-maps-2.pt') for run in (whole, parts)))


def test_workers_do_not_matter(data, tmp_path):
    runs = [
        run_train(f'{data} {TINY} {RECYCLED} --exact-resume {flags}', tmp_path, str(i))
        for i, flags in enumerate(('', '-j 2', '-j 1 --use-multi-epochs-loader'))
    ]
    for run in runs[1:]:
        assert_same(checkpoint(run)['state_dict'], checkpoint(runs[0])['state_dict'])


def test_a_map_that_is_gone_is_said(data, tmp_path, capsys, caplog):
    flags = f'{data} {TINY} {RECYCLED} --resume auto'
    run = run_train(f'{flags} --exact-resume --stop-epoch 1', tmp_path)
    (run / 'saliency-maps-0.pt').unlink()
    said = refuse_train(f'{flags} --exact-resume', tmp_path, capsys)
    assert 'saliency-maps-0.pt, which --exact-resume needs, is missing' in said
    caplog.set_level('INFO', logger='train')
    run_train(flags, tmp_path)
    assert 'Without --exact-resume the saliency maps of the earlier run are lost' in caplog.text


@pytest.mark.parametrize(
    'change',
    [dict(levels=torch.zeros(23, 16, 16, dtype=torch.uint8)), dict(levels=torch.zeros(24, 16, 16)), dict(scales=None)],
)
def test_maps_of_another_run_are_refused(change, data, tmp_path, capsys):
    flags = f'{data} {TINY} {RECYCLED} --resume auto --exact-resume'
    run = run_train(f'{flags} --stop-epoch 1', tmp_path)
    held = torch.load(run / 'saliency-maps-0.pt')
    torch.save({**held, **change}, run / 'saliency-maps-0.pt')
    said = refuse_train(flags, tmp_path, capsys)
    assert 'saliency-maps-0.pt holds the saliency maps of another run' in said


def test_an_older_checkpoint_has_no_maps_any_more(data, tmp_path, capsys):
    flags = f'{data} {TINY} {RECYCLED} --exact-resume'
    run = run_train(flags, tmp_path)
    said = refuse_train(f'{flags} --resume {run}/checkpoint-0.pth.tar', tmp_path, capsys)
    assert (
        'saliency-maps-0.pt, which --exact-resume needs, is missing, since it is kept only beside last.pth.tar' in said
    )


def test_a_name_leads_nowhere_else(data, tmp_path, capsys):
    flags = f'{data} {TINY} {RECYCLED} --resume auto --exact-resume'
    run = run_train(f'{flags} --stop-epoch 1', tmp_path)
    state = checkpoint(run)
    (run / 'saliency-maps-0.pt').rename(tmp_path / 'elsewhere.pt')
    state['exact_resume']['maps'] = '../elsewhere.pt'
    torch.save(state, run / 'last.pth.tar')
    assert 'elsewhere.pt, which --exact-resume needs, is missing' in refuse_train(flags, tmp_path, capsys)


def test_log_says_what_is_used(data, tmp_path, caplog):
    caplog.set_level('INFO', logger='train')
    run_train(f'{data} {TINY} {RECYCLED} --keep-map-size 8 --epochs 1', tmp_path)
    assert re.search(r'maps of 8 x 8 cells for 24 images take 0\.00156 MiB in each process', caplog.text)
    assert re.search(r'\n  keep-cut +cutout, 8 x 8 px, .* saliency recycled, on the device', caplog.text)


def test_previews_and_replays_show_the_full_pass(data, tmp_path, capsys, caplog, monkeypatch):
    monkeypatch.setattr(preview, 'setup_default_logging', lambda: None)
    caplog.set_level('INFO', logger='train')
    sheet = tmp_path / 'sheet.png'
    preview.main([str(data), *TINY.split(), *RECYCLED.split(), '--preview-output', str(sheet)])
    assert sheet.exists() and 'saliency=full' in caplog.text
    run = run_train(f'{data} {TINY} {RECYCLED} --epochs 1', tmp_path)
    found = run_validate(
        f'{data} --model test_resnet --num-classes 3 --img-size 32 --device cpu -j 0 -b 8 --split train '
        f'--checkpoint {run}/last.pth.tar --evaluate risk',
        capsys,
    )
    assert found['risk_augmented'] > 0


@pytest.mark.parametrize(
    'flags, words',
    [
        ('--keep-paste --aa rand-m9', ['--keep-paste', 'moves pixels']),
        ('--keep-cut --keep-paste --aa rand-m9', ['--keep-paste', 'moves pixels']),
        ('--keep-cut --aa rand-m9', ['--aa rand-m9', 'moves pixels']),
        ('--keep-cut --reprob 0.3', ['--reprob 0.3', 'removes pixels']),
        ('--keep-cut --mixup 0.2', ['--mixup 0.2', 'blends two images']),
        ('--keep-cut cutmix --mixup 0.2', ['--mixup 0.2', 'blends two images']),
        ('--keep-cut --feature-cutmix', ['--feature-cutmix', 'inside the network']),
        ('--keep-cut --manifold-mixup', ['--manifold-mixup', 'inside the network']),
        ('--keep-cut --opt adahessian', ['--opt adahessian', 'twice']),
        ('--keep-cut --dataset wds/some', ['--dataset wds/some', 'stream']),
        ('--keep-cut --dataset WDS/some', ['--dataset WDS/some', 'stream']),
        ('--keep-cut --naflex-loader', ['--naflex-loader']),
        ('--keep-cut --aug-splits 2', ['--aug-splits 2']),
        ('--keep-cut --keep-tau none', ['--keep-saliency recycled has no effect', '--keep-tau none']),
        ('--keep-cut --keep-low-scale 0.3', ['--keep-low-scale 0.3 has no effect', 'recycled']),
        ('--keep-cut --keep-map-size 0', ['--keep-map-size must be between 1 and 256, got 0']),
    ],
)
def test_refusals(flags, words):
    args = options.create_parser().parse_args(['data', '--keep-saliency', 'recycled', *flags.split()])
    with pytest.raises(ValueError) as error:
        keepaug.prepare(args)
    says(str(error.value), *words)


def test_map_size_needs_recycling():
    args = options.create_parser().parse_args(['data', '--keep-cut', '--keep-map-size', '8'])
    with pytest.raises(ValueError, match='has no effect without --keep-saliency recycled'):
        keepaug.prepare(args)


def test_another_persons_script_is_refused():
    parser = options.create_train_parser()
    keepaug.add_arguments(parser)
    with pytest.raises(ValueError, match="^--keep-saliency recycled needs keepaug's own train.py"):
        keepaug.prepare(parser.parse_args(['data', '--keep-cut', '--keep-saliency', 'recycled']))


def test_several_labels_come_apart():
    """Labels of several classes go through the task as they are."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64, 3))
    seen = []

    class Task(ClassificationTask):
        def forward(self, input, target):
            seen.append(target)
            return super().forward(input, target)

    maps = SaliencyMaps(2)
    augment = keepaug.create_augment('keep-cut', size=4, saliency='recycled', maps=maps)
    task = RecyclingTask(
        Task(model, criterion=torch.nn.BCEWithLogitsLoss(), verbose=False),
        keepaug.augment.Compose([augment]),
        dense=True,
    )
    labels = torch.tensor([[0.0, 1.0, 0.25], [1.0, 1.0, 0.0]])
    joined = torch.stack(
        [keepaug.data.places.join_target(label, i, [8, 8, 0, 0, 8, 8, 0, 0]) for i, label in enumerate(labels)]
    )
    task.train()
    task(torch.randn(2, 3, 8, 8), joined)['loss'].backward()
    assert torch.equal(seen[0], labels) and (maps.levels > 0).flatten(1).any(1).all()


def test_its_method_is_registered_behind_keep_cut():
    names = [method.name for method in all_methods()]
    assert names.index('recycled saliency') == names.index('keep-cut') + 1


def test_the_task_writes_what_is_the_images_own():
    maps = SaliencyMaps(4, cells=8)
    augment = keepaug.create_augment('keep-cut', size=4, saliency='recycled', maps=maps)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64, 3))
    task = RecyclingTask(ClassificationTask(model, verbose=False), keepaug.augment.Compose([augment])).train()
    joined = torch.stack([keepaug.data.places.join_target(i % 3, i, [8, 8, 0, 0, 8, 8, i % 2, 0]) for i in range(4)])
    task(torch.randn(4, 3, 8, 8), joined)['loss'].backward()
    own = ~augment.last['mask'][:, 0]
    own[1::2] = own[1::2].flip(-1)  # these were turned left to right
    assert torch.equal(maps.levels > 0, own) and not own.all()
