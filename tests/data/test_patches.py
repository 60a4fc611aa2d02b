"""Training on batches of patches (NaFlex)."""

import pytest
import torch
from PIL import Image
from timm.task import ClassificationTask

from keepaug.training.forward import Forward
from keepaug.training.loop import LoopSettings
from tests.scripts import TINY, refuse_train, run_train, write_images

NAFLEX = (
    f'{TINY} --model test_vit --model-kwargs use_naflex=True --naflex-loader '
    '--naflex-train-seq-lens 4 9 --naflex-max-seq-len 16'
)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = write_images(tmp_path_factory.mktemp('images'))
    for number, path in enumerate(sorted(folder.glob('train/*/*.png'))):  # any size and shape
        image = Image.open(path)
        image.resize((16 * (1 + number % 4), 16 * (1 + number % 3))).save(path)
    return folder


@pytest.fixture
def batches(monkeypatch):
    """What the task was given, in order."""
    seen = []
    forward = ClassificationTask.forward

    def watched(self, input, target):
        seen.append((input, target))
        return forward(self, input, target)

    monkeypatch.setattr(ClassificationTask, 'forward', watched)
    return seen


@pytest.mark.parametrize(
    'flags',
    [
        '',
        '--no-prefetcher',
        '--channels-last',
        '--no-prefetcher --channels-last -j 1',
        '--model-dtype bfloat16',
        '--amp --amp-dtype bfloat16 --no-prefetcher',
        '--model-ema --grad-accum-steps 2 --clip-grad 1',
        '--reprob 0.5 --aa rand-m9',
        '--naflex-patch-sizes 8 16 --naflex-patch-size-probs 1 1',
        '--naflex-patchify-channels-first',
        '--in-chans 1',
        '--mixup 0.2 --cutmix 1',
        '--grad-checkpointing',
        '--no-aug',
        pytest.param(
            '--torchcompile aot_eager',
            # torch's compiler looks at the gradients of all tensors
            marks=[pytest.mark.slow, pytest.mark.filterwarnings('ignore:The .grad attribute of a Tensor')],
        ),
    ],
)
def test_trains(flags, data, tmp_path, batches, capsys):
    run = run_train(f'{data} {NAFLEX} {flags} --epochs 1', tmp_path)
    state = torch.load(run / 'last.pth.tar', weights_only=False)['state_dict']
    assert all(tensor.isfinite().all() for tensor in state.values())
    lengths = {input['patches'].shape[1] for input, _ in batches}
    assert lengths <= {4, 9} and sum(len(target) for _, target in batches) == 24
    out = capsys.readouterr().out
    assert out.startswith('--result'), 'stdout is for the results alone'


def test_patches_are_normalised_alike_with_and_without_the_prefetcher(data, tmp_path, batches):
    for flags in ('', '--no-prefetcher'):
        run_train(f'{data} {NAFLEX} {flags} --epochs 1 --no-aug --lr 1e-30', tmp_path)
    half = len(batches) // 2
    assert half > 1
    for (one, target), (other, other_target) in zip(batches[:half], batches[half:], strict=True):
        assert torch.equal(target, other_target)
        assert torch.equal(one['patch_coord'], other['patch_coord'])
        valid = one['patch_valid']
        assert torch.allclose(one['patches'][valid], other['patches'][valid], atol=1e-5)


@pytest.mark.parametrize('workers', [0, 1])
def test_mixing_ends_with_its_epoch(workers, data, tmp_path, batches):
    run_train(f'{data} {NAFLEX} -j {workers} --epochs 2 --mixup 1 --smoothing 0 --mixup-off-epoch 1', tmp_path)
    hard = [bool((target.max(1).values > 0.999).all()) for _, target in batches]
    half = len(hard) // 2
    assert not all(hard[:half]) and all(hard[half:])


def test_resumes(data, tmp_path):
    run_train(f'{data} {NAFLEX} --epochs 1', tmp_path)
    run = run_train(f'{data} {NAFLEX} --epochs 2 --resume auto', tmp_path)
    assert len((run / 'summary.csv').read_text().splitlines()) == 3


def test_loss_is_weighted_by_the_batch():
    settings = LoopSettings(average_batch_size=8.0)
    for scale, weight in (('none', 1.0), ('sqrt', 2.0**0.5), ('linear', 2.0)):
        settings.batch_loss_scale = scale
        assert settings.loss_weight(16) == pytest.approx(weight)


def test_loss_is_weighted_by_the_share_of_the_process(monkeypatch):
    settings = LoopSettings(average_batch_size=8.0, world_size=2, uneven_ranks=True)
    monkeypatch.setattr(torch.distributed, 'all_reduce', lambda total: total.add_(24.0))  # the other process's batch
    assert float(settings.loss_weight(8)) == pytest.approx(2 * 8 / 32)


def test_only_patches_change_their_format():
    batch = dict(
        patches=torch.ones(2, 4, 6),
        patch_coord=torch.ones(2, 4, 2, dtype=torch.long),
        patch_valid=torch.ones(2, 4, dtype=torch.bool),
        seq_len=4,
    )
    forward = Forward(dtype=torch.bfloat16, channels_last=True)
    moved, target = forward.place_batch(batch, torch.zeros(2, dtype=torch.long))
    assert {name: getattr(value, 'dtype', value) for name, value in moved.items()} == dict(
        patches=torch.bfloat16, patch_coord=torch.int64, patch_valid=torch.bool, seq_len=4
    )
    assert target.dtype == torch.int64


def test_models_of_images_are_refused(data, tmp_path, capsys):
    said = refuse_train(f'{data} {TINY} --naflex-loader', tmp_path, capsys)
    assert '--naflex-loader' in said and '--model test_resnet' in said and 'use_naflex=True' in said
