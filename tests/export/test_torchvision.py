"""ResNets as backbones of torchvision's detectors."""

import pytest
import timm
import torch
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from keepaug.export import torchvision
from keepaug.export.source import Source, load_source
from tests.export.checkpoints import create, save


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """A trained ResNet-18 and the file exported from it."""
    folder = tmp_path_factory.mktemp('export')
    model = create('resnet18', num_classes=3)
    path = save(folder / 'last.pth.tar', model, 'resnet18', mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    return model, folder / 'backbone.pth', torchvision.export(load_source(str(path)), str(folder / 'backbone.pth'))


def test_detector_trains_a_step(exported):
    """The lines that the export prints, run as they are, then a step of Faster R-CNN with FPN."""
    model, path, told = exported
    lines = '\n'.join(line.strip() for line in told.splitlines() if line.startswith('    '))
    names = dict(torch=torch, FasterRCNN=FasterRCNN, resnet_fpn_backbone=resnet_fpn_backbone)
    exec(lines.replace('num_classes=...', 'num_classes=3, min_size=64, max_size=96'), names)
    detector = names['detector'].train()
    assert detector.transform.image_mean == [0.4, 0.5, 0.6] and detector.transform.image_std == [0.2, 0.3, 0.25]
    assert detector.backbone.body.layer4[1].conv2.weight.equal(model.layer4[1].conv2.weight)
    optimizer = torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], lr=1e-3)
    before = detector.backbone.body.layer4[1].conv2.weight.detach().clone()
    target = dict(boxes=torch.tensor([[8.0, 8.0, 40.0, 48.0]]), labels=torch.tensor([1]))
    losses = detector([torch.rand(3, 64, 80)], [target])
    loss = sum(losses.values())
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss) and len(losses) == 4
    assert not before.equal(detector.backbone.body.layer4[1].conv2.weight)


def test_features_of_the_body_are_timms(exported):
    model, path, _ = exported
    body = resnet_fpn_backbone(backbone_name='resnet18', weights=None).eval().body
    body.load_state_dict(torch.load(path, weights_only=True))
    x = torch.randn(2, 3, 70, 90)
    with torch.no_grad():
        for feature, other in zip(body(x).values(), model.forward_intermediates(x, intermediates_only=True)[1:]):
            torch.testing.assert_close(feature, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    'name, kwargs, reason',
    [
        ('resnetaa50', {}, 'anti-aliased'),
        ('resnext101_32x4d', {}, '32 groups of 4'),
        ('resnet50_gn', {}, 'GN'),
        ('resnet50', dict(channels=(16, 32, 64, 128)), 'groups of 16'),
        ('resnet18', dict(in_chans=1), '1 channels'),
        ('test_vit', {}, 'VisionTransformer'),
    ],
)
def test_refusals_name_reason_and_alternative(name, kwargs, reason, tmp_path):
    model = timm.create_model(name, device='meta', **kwargs)
    source = Source('last.pth.tar', model, {}, dict(input_size=(kwargs.get('in_chans', 3), 64, 64)), averaged=False)
    with pytest.raises(ValueError) as refusal:
        torchvision.export(source, str(tmp_path / 'out.pth'))
    assert name in str(refusal.value) and reason in str(refusal.value) and 'export timm' in str(refusal.value)
    assert not (tmp_path / 'out.pth').exists()
