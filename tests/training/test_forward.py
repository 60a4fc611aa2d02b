"""The forward pass: where a batch and a model go, in which format and layout, and what comes back."""

import pytest
import torch

from keepaug.training.forward import Forward
from tests.functional.toys import small_cnn

CHANNELS_LAST = dict(memory_format=torch.channels_last)


class Seen(torch.nn.Module):
    """Gives two outputs and keeps what it was given."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)

    def forward(self, x):
        self.x = x
        return self.layer(x.mean(1).flatten(1)), x


def test_places_images_and_labels():
    forward = Forward(dtype=torch.bfloat16, channels_last=True)
    x, target = forward.place_batch(torch.rand(2, 3, 4, 4), torch.tensor([0, 1]))
    assert x.dtype == torch.bfloat16 and x.is_contiguous(**CHANNELS_LAST)
    assert target.dtype == torch.int64


def test_leaves_alone_what_is_there():
    """The prefetcher's batches, in every step of a training."""
    forward = Forward(channels_last=True)
    x, target = torch.rand(2, 3, 4, 4).contiguous(**CHANNELS_LAST), torch.rand(2, 5)
    placed = forward.place_batch(x, target)
    assert placed[0] is x and placed[1] is target


def test_of_several_outputs_the_first():
    model = Seen()
    output = Forward(channels_last=True)(model, torch.rand(2, 3, 2, 2, dtype=torch.float64))
    assert output.shape == (2, 2)
    assert model.x.dtype == torch.float32 and model.x.is_contiguous(**CHANNELS_LAST)


@pytest.mark.parametrize(
    'forward, dtype',
    [
        (Forward(), torch.float32),
        (Forward(amp_dtype=torch.bfloat16), torch.bfloat16),
        (Forward(dtype=torch.bfloat16), torch.bfloat16),
    ],
)
def test_number_format(forward, dtype):
    model = small_cnn(classes=3)
    forward.place_model(model)
    assert forward(model, torch.rand(2, 3, 16, 16)).dtype == dtype
    assert {parameter.dtype for parameter in model.parameters()} == {forward.dtype}


def test_a_gradient_flows_back():
    x = torch.rand(2, 3, 16, 16, requires_grad=True)
    Forward(dtype=torch.bfloat16, channels_last=True)(small_cnn(classes=3).bfloat16(), x).float().sum().backward()
    assert x.grad.abs().sum() > 0
