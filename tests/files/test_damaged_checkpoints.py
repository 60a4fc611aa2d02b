"""Whatever a checkpoint holds, it is taken up or refused in one sentence: never a traceback, never other weights."""

import copy
import os
import random
import struct
from argparse import Namespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.task import ClassificationTask
from torch import nn

from keepaug.files.checkpoints import check_checkpoint
from keepaug.models.described import describe
from keepaug.record.exact_state import KEY, open_exact_resume
from keepaug.record.resuming import resume, resume_ema
from keepaug.training.schedule import HeldRate

STRANGE = [
    None, [], {}, '', 'text', -1, 10**30, 3.5, True, float('nan'), float('inf'), -0.5, [float('nan')], [1, [2]],
    {'a': 1}, {1: 2}, {'a': torch.ones(2)}, torch.ones(2), torch.tensor(float('nan')), Namespace(), Namespace(a=[1]),
    torch.zeros(10**9, device='meta').shape, torch.ones(1).expand(10**9), torch.ones(2).to_sparse(),
]  # fmt: skip


def is_sentence(said: str) -> bool:
    """Whether something is one sentence with a way out; paths make it as long as they are."""
    return '\n' not in said and said.endswith('.') and (': ' in said or '; ' in said)


def build() -> tuple[ClassificationTask, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    model.num_classes = 3
    task = ClassificationTask(model, verbose=False)
    return task, torch.optim.AdamW(model.parameters(), lr=0.1)


def train_step(task, optimizer) -> None:
    task(torch.randn(4, 2), torch.tensor([0, 1, 2, 0]))['loss'].backward()
    optimizer.step()
    optimizer.zero_grad()


def flags(path: str, **changes) -> Namespace:
    args = Namespace(
        resume=path, no_resume_opt=False, model_ema=True, start_epoch=None, rank=0, class_map='', class_to_idx={},
        exact_resume=True, opt='adamw', model='toy', num_classes=3, epochs=5, distributed=False, device='cpu',
        world_size=1, taken_over=Namespace(),
        check=False,
    )  # fmt: skip
    vars(args).update(changes)
    return args


@pytest.fixture(scope='module')
def valid(tmp_path_factory) -> dict[str, Any]:
    """What a run of one epoch with `--exact-resume` and an average writes."""
    task, optimizer = build()
    optimizer.param_groups[0]['initial_lr'] = 0.1
    train_step(task, optimizer)
    exact = open_exact_resume(flags(''))
    exact.check_samples(Namespace(data_dir='images', data='', dataset='', uda_data_dir=None), range(10))
    exact.restore(task, optimizer, HeldRate())
    weights = task.get_trainable_module().state_dict()
    return dict(
        epoch=1,
        arch='toy',
        version=2,
        metric=50.0,
        args=Namespace(model='toy', num_classes=3, epochs=5, model_kwargs={}, class_to_idx={'a': 0}),
        state_dict=weights,
        state_dict_ema={name: value.clone() for name, value in weights.items()},
        optimizer=optimizer.state_dict(),
        task_state={},
        saver=dict(
            checkpoint_files=[('checkpoint-0.pth.tar', 40.0)], best_epoch=1, best_metric=50.0, pending=(1, 50.0)
        ),
        **{KEY: exact.state_dict()},
    )


def mutate(checkpoint: dict[str, Any], draw: random.Random) -> str:
    """Changes one entry somewhere in a checkpoint, and says which."""
    holder, place = checkpoint, []
    while True:
        entries = vars(holder) if isinstance(holder, Namespace) else holder
        name = draw.choice([*entries] if isinstance(entries, dict) else range(len(entries)))
        place.append(name)
        inner = entries[name]
        if isinstance(inner, (dict, list, Namespace)) and len(vars(inner) if isinstance(inner, Namespace) else inner):
            if draw.random() < 0.7:
                holder = inner
                continue
        if draw.random() < 0.25:
            del entries[name]
            return f'{place} deleted'
        value = draw.choice(STRANGE)
        if isinstance(inner, torch.Tensor) and inner.is_floating_point() and draw.random() < 0.5:
            value = draw.choice(
                [inner * float('nan'), -inner.abs() - 1, inner.double(), inner.flatten()[:-1], inner[None]]
            )
        entries[name] = value
        return f'{place} = {str(value)[:40]}'


def damage(path: str, draw: random.Random) -> str:
    """Changes bytes of a file."""
    content = bytearray(open(path, 'rb').read())
    if draw.random() < 0.4:
        end = draw.randrange(len(content))
        content, what = content[:end], f'cut to {end} bytes'
    else:
        start = draw.randrange(len(content))
        length = draw.choice([1, 4, 200])
        content[start : start + length] = draw.randbytes(length)
        what = f'{length} bytes from {start} changed'
    with open(path, 'wb') as file:
        file.write(content)
    return what


def take_up(path: str) -> None:
    """Resumes a checkpoint as a run does, and trains a step."""
    args = flags(path)
    exact = open_exact_resume(args)
    task, optimizer = build()
    exact.check_samples(Namespace(data_dir='images', data='', dataset='', uda_data_dir=None), range(10))
    epoch = resume(args, task, optimizer, None)
    assert 0 <= epoch < 10**9
    held = check_checkpoint(path, '--resume')
    loaded = task.get_trainable_module().state_dict()
    assert all(torch.equal(loaded[name], value.to(loaded[name])) for name, value in held['state_dict'].items())
    task.setup_ema(decay=0.9)
    resume_ema(args, task)
    exact.restore(task, optimizer, HeldRate())
    train_step(task, optimizer)


def look_at(path: str) -> None:
    """Reads a checkpoint as the weights of a validation, a teacher or a start."""
    held = check_checkpoint(path, '--checkpoint', averaged=True)
    describe(held, path, '--checkpoint')


def check_mutations(valid, folder, number: int, seed: int) -> None:
    draw, refused, path = random.Random(seed), 0, str(folder / 'last.pth.tar')
    for _ in range(number):
        checkpoint = copy.deepcopy(valid)
        in_bytes = draw.random() < 0.25
        what = '' if in_bytes else mutate(checkpoint, draw)
        torch.save(checkpoint, path)
        if in_bytes:
            what = damage(path, draw)
        for use, flag in ((take_up, '--resume'), (look_at, '--checkpoint')):
            try:
                use(path)
            except ValueError as error:
                refused += 1
                said = str(error)
                assert is_sentence(said) and (flag in said or '--exact-resume' in said) and str(folder) in said, (
                    what,
                    said,
                )
            except Exception as error:
                raise AssertionError(f'{what}: {error!r}') from error
    assert refused > number / 4  # some changes harm nobody


def test_the_checkpoint_itself_is_taken_up(valid, tmp_path):
    torch.save(valid, tmp_path / 'last.pth.tar')
    take_up(str(tmp_path / 'last.pth.tar'))
    look_at(str(tmp_path / 'last.pth.tar'))


@pytest.mark.filterwarnings('ignore')
def test_mutations(valid, tmp_path):
    check_mutations(valid, tmp_path, 300, seed=0)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('seed', range(1, 9))
def test_more_mutations(valid, tmp_path, seed):
    check_mutations(valid, tmp_path, 2000, seed)


@pytest.mark.parametrize(
    'name, value',
    [
        ('state_dict', {}), ('state_dict', None), ('state_dict', [1]), ('state_dict', {'a': 1}), ('state_dict_ema', {}),
        ('epoch', -1), ('epoch', float('nan')), ('epoch', 'two'), ('epoch', None), ('version', [2]),
        ('optimizer', {}), ('optimizer', None), ('optimizer', [1]), ('task_state', [1]), ('args', [1]),
        ('args', {1: 2}),
        (KEY, [1]), (KEY, {}), (KEY, {'lr': [float('nan')]}), ('saver', [1]),
    ],
)  # fmt: skip
def test_each_part_is_looked_at(name, value, valid, tmp_path):
    path = str(tmp_path / 'last.pth.tar')
    torch.save({**valid, name: value}, path)
    with pytest.raises(ValueError, match=f'--resume {path} ') as refused:
        take_up(path)
    assert is_sentence(str(refused.value))


@pytest.mark.parametrize('name', ['state_dict', 'epoch', 'optimizer'])
def test_a_missing_part_is_said(name, valid, tmp_path):
    path = str(tmp_path / 'last.pth.tar')
    torch.save({key: value for key, value in valid.items() if key != name}, path)
    with pytest.raises(
        ValueError, match=f'--resume {path} .*(--initial-checkpoint|--start-epoch|written within|state_dict)'
    ):
        take_up(path)


def test_values_that_are_no_numbers_are_found(valid, tmp_path):
    path = str(tmp_path / 'last.pth.tar')
    for name, value, said in (
        ('0.weight', float('nan'), 'not finite'),
        ('1.running_var', -1.0, 'variances below 0'),
    ):
        weights = {**valid['state_dict'], name: torch.full_like(valid['state_dict'][name], value)}
        torch.save({**valid, 'state_dict': weights}, path)
        with pytest.raises(ValueError, match=f'--checkpoint {path} holds .*{said}.* in {name}'):
            check_checkpoint(path, '--checkpoint')
        check_checkpoint(path, '--checkpoint', averaged=True)  # which takes the others


def test_state_of_another_shape_is_refused_before_a_step(valid, tmp_path):
    path, changed = str(tmp_path / 'last.pth.tar'), copy.deepcopy(valid)
    changed['optimizer']['state'][0]['exp_avg'] = torch.zeros(7)
    torch.save(changed, path)
    with pytest.raises(
        ValueError, match=r'optimizer .*a tensor of shape \(7,\) as exp_avg of a weight of shape \(3, 2\)'
    ):
        take_up(path)


@pytest.mark.parametrize('suffix', ['.pth.tar', '.safetensors', '.npz'])
def test_files_of_nothing_and_of_other_things(suffix, tmp_path):
    path = tmp_path / f'weights{suffix}'
    for content, said in (
        (b'', 'is empty'),
        (b'text', 'cannot be read'),
        (b'\x80\x02}q\x00.', '(cannot be|no checkpoint)'),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f'--checkpoint {path} .*{said}') as refused:
            check_checkpoint(str(path), '--checkpoint', arrays=True)
        assert is_sentence(str(refused.value))


def test_safetensors_cut_short(tmp_path):
    path = str(tmp_path / 'weights.safetensors')
    save_file({'a': torch.ones(100)}, path)
    assert check_checkpoint(path, '--checkpoint').keys() == {'a'}
    with open(path, 'r+b') as file:
        file.truncate(200)
    with pytest.raises(ValueError, match=f'--checkpoint {path} cannot be read: it is .* no safetensors file'):
        check_checkpoint(path, '--checkpoint')
    with pytest.raises(ValueError, match=f'--resume {path} is no checkpoint of a training run'):
        check_checkpoint(path, '--resume', of_run=True)


def test_arrays_that_unpack_to_more_than_they_are(tmp_path):
    import io
    import zipfile

    import numpy

    path = tmp_path / 'weights.npz'
    numpy.savez(path, a=numpy.ones(1000, numpy.float32))
    assert check_checkpoint(str(path), '--checkpoint', arrays=True) == {}
    with pytest.raises(ValueError, match='holds arrays of NumPy'):
        check_checkpoint(str(path), '--checkpoint')
    numpy.savez_compressed(path, a=numpy.zeros(10**7, numpy.float32))  # 40 MB in 40 KB
    lying = io.BytesIO()
    numpy.lib.format.write_array_header_1_0(
        lying, dict(shape=(10**12,), fortran_order=False, descr=numpy.dtype('f4').str)
    )
    large = tmp_path / 'large.npz'
    with zipfile.ZipFile(large, 'w') as archive:
        archive.writestr('a.npy', lying.getvalue() + bytes(100))
    objects = tmp_path / 'objects.npz'
    numpy.savez(objects, a=numpy.array([{}], dtype=object))
    for bad in (path, large, objects):
        with pytest.raises(ValueError, match=f'--checkpoint {bad} cannot be read'):
            check_checkpoint(str(bad), '--checkpoint', arrays=True)


def test_what_has_nothing_to_do_with_the_contents_is_not_blamed_on_them(tmp_path, monkeypatch):
    (tmp_path / 'last.pth.tar').write_bytes(b'x')
    with pytest.raises(ValueError, match=f'--resume {tmp_path} is a folder: give {tmp_path}/last.pth.tar'):
        check_checkpoint(str(tmp_path), '--resume')
    os.mkfifo(tmp_path / 'pipe')
    with pytest.raises(ValueError, match=f'--resume {tmp_path}/pipe is no file'):
        check_checkpoint(str(tmp_path / 'pipe'), '--resume')
    with pytest.raises(ValueError, match='gone.pth does not exist'):
        check_checkpoint(str(tmp_path / 'gone.pth'), '--resume')

    def refuse(*args):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr('builtins.open', refuse)  # whoever runs the tests may read everything
    with pytest.raises(ValueError, match=r'cannot be opened \(Permission denied\)'):
        check_checkpoint(str(tmp_path / 'last.pth.tar'), '--resume')


@pytest.mark.parametrize('which', [slice(1), slice(None)])
def test_an_optimizer_with_names_that_are_none_of_its_own(which, valid, tmp_path):
    path, changed = str(tmp_path / 'last.pth.tar'), copy.deepcopy(valid)
    for state in [*changed['optimizer']['state'].values()][which]:
        state['exp_bvg'] = state.pop('exp_avg')
    torch.save(changed, path)
    with pytest.raises(ValueError, match=f'--resume {path} .*lacks exp_.vg of a weight'):
        take_up(path)


def test_an_optimizer_for_cuda_graphs_does_not_go_on_without(valid, tmp_path):
    path, changed = str(tmp_path / 'last.pth.tar'), copy.deepcopy(valid)
    changed['optimizer']['param_groups'][0]['capturable'] = True
    torch.save(changed, path)
    with pytest.raises(ValueError, match=f'--resume {path} .*capturable.*--no-resume-opt'):
        take_up(path)


def test_a_flipped_byte_in_a_weight_is_found(tmp_path):
    """torch itself would read it as another weight; a file that was written without checksums still loads."""
    path, weights = tmp_path / 'weights.pth', {'weight': torch.arange(512.0), 'bias': torch.arange(64.0)}
    torch.save(weights, path)
    whole = path.read_bytes()
    assert check_checkpoint(str(path), '--checkpoint').keys() == weights.keys()
    place = whole.index(struct.pack('<3f', 100, 101, 102))
    path.write_bytes(whole[:place] + b'\xff' + whole[place + 1 :])
    with pytest.raises(ValueError, match=f'--checkpoint {path} cannot be read: it is truncated, damaged or no'):
        check_checkpoint(str(path), '--checkpoint')
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(weights, path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert check_checkpoint(str(path), '--checkpoint').keys() == weights.keys()
