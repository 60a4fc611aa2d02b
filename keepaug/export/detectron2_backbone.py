"""Any timm network as the backbone of a Detectron2 detector. Needs timm and Detectron2, nothing else: copy this file.

    import detectron2_backbone                                   # registers the three builders
    cfg = get_cfg()
    detectron2_backbone.add_timm_config(cfg)
    cfg.merge_from_file('configs/COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml')
    cfg.MODEL.BACKBONE.NAME = 'build_keepaug_timm_fpn_backbone'  # RetinaNet: build_keepaug_timm_retinanet_fpn_backbone
    cfg.MODEL.TIMM.NAME = 'convnext_tiny'
    cfg.MODEL.TIMM.CHECKPOINT = 'output/train/run/model_best.pth.tar'
    cfg.MODEL.WEIGHTS = ''                                       # or Detectron2 loads the base's file over it
    cfg.INPUT.FORMAT = 'RGB'                                     # and the run's normalisation, times 255
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]

`python -m keepaug.export detectron2-timm` writes these settings, the weights and this file into one folder.
The maps are called `res2` to `res5` by their strides 4 to 32, as Detectron2's own are, so that FPN, anchors and heads
work unchanged. `MODEL.BACKBONE.FREEZE_AT` means what it means there: 1 freezes the stem, 2 also the stage of `res2`.
Frozen is what the last frozen map depends on; in HRNet, whose maps are all made at the end, that is nearly everything.
ConvNeXt, Swin and their kin want AdamW and a small rate, not SGD at 0.02.
"""

from collections.abc import Mapping
from typing import Any

import timm
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from timm.layers import freeze_batch_norm_2d
from timm.models import load_state_dict
from torch import Tensor, nn

NAMES = {4: 'res2', 8: 'res3', 16: 'res4', 32: 'res5'}
# An image to try the network on: not square, and of a size every stride divides.
TRIAL_SIZE = (256, 320)
BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


def add_timm_config(cfg: CfgNode) -> None:
    """Adds the keys `MODEL.TIMM`; Detectron2 refuses keys it does not know."""
    cfg.MODEL.TIMM = CfgNode(
        dict(
            NAME='resnet50d',
            CHECKPOINT='',  # a training checkpoint, or a file of the whole network's weights
            USE_EMA=True,  # the checkpoint's running average where it has one
            PRETRAINED=False,  # timm's published weights, where there is no checkpoint
            FREEZE_NORM=True,  # batch norm with fixed statistics, scale and shift, for batches of a few images
        )
    )
    cfg.MODEL.TIMM.KWARGS = CfgNode({}, new_allowed=True)  # further arguments of timm.create_model


class TimmBackbone(Backbone):
    """The feature maps of a timm network.

    Args:
        name: timm's name of the network.
        in_channels: Channels of the image.
        checkpoint: File with the weights of the whole network, or none.
        use_ema: Take the running average of the checkpoint where there is one.
        pretrained: Take timm's published weights.
        freeze_at: Stages to freeze, counted as Detectron2 counts them: 0 none, 1 the stem, 2 also the stage of res2 ...
        freeze_norm: Freeze batch norm everywhere, not only in frozen stages.
        kwargs: Further arguments of `timm.create_model`.

    Raises:
        ValueError: The network has no maps of stride 4, 8, 16 or 32, does not keep to its strides, or the checkpoint is
            of another network.
    """

    def __init__(
        self,
        name: str,
        in_channels: int = 3,
        checkpoint: str = '',
        use_ema: bool = True,
        pretrained: bool = False,
        freeze_at: int = 2,
        freeze_norm: bool = True,
        kwargs: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.body = _create_body(name, in_chans=in_channels, pretrained=pretrained, **(kwargs or {}))
        info = self.body.feature_info
        self._out_features = [NAMES[stride] for stride in info.reduction()]
        self._out_feature_strides = dict(zip(self._out_features, info.reduction()))
        self._out_feature_channels = dict(zip(self._out_features, info.channels()))
        # Some networks keep channels last; Detectron2 wants (B, C, H, W).
        self.channels_last = str(getattr(self.body, 'output_fmt', 'NCHW')).endswith('NHWC')
        if checkpoint:
            load_body(self.body, checkpoint, use_ema)
        frozen = self._parameters_until(freeze_at, self._try(name, in_channels))
        for parameter in frozen:
            parameter.requires_grad = False
        _freeze_norms(self.body, None if freeze_norm else frozen)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps by name of images (B, C, H, W)."""
        features = self.body(x)
        if self.channels_last:
            features = [feature.permute(0, 3, 1, 2).contiguous() for feature in features]
        return dict(zip(self._out_features, features))

    @property
    def size_divisibility(self) -> int:
        return max(self._out_feature_strides.values())

    def _try(self, name: str, in_channels: int) -> dict[str, Tensor]:
        """Maps of an image, with the graph that leads to them, after a look at their shapes."""
        training = self.body.training
        self.body.eval()
        try:
            with torch.enable_grad():
                features = self(torch.zeros(1, in_channels, *TRIAL_SIZE))
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f'MODEL.TIMM.NAME {name} does not run on images of {TRIAL_SIZE[0]} x {TRIAL_SIZE[1]}, but a '
                f"detector's images have any size: {error}"
            ) from error
        self.body.train(training)
        for feature, map_ in features.items():
            wanted = (
                self._out_feature_channels[feature],
                *(side // self._out_feature_strides[feature] for side in TRIAL_SIZE),
            )
            if map_.shape[1:] != wanted:
                raise ValueError(
                    f'MODEL.TIMM.NAME {name} gives {feature} as {tuple(map_.shape[1:])} instead of {wanted}: an FPN '
                    'cannot add its maps.'
                )
        return features

    def _parameters_until(self, freeze_at: int, features: Mapping[str, Tensor]) -> list[nn.Parameter]:
        """The parameters that the last of the stages to freeze depends on, by the graph that leads to its map."""
        stages = [feature for feature in features if int(feature[3:]) <= max(freeze_at, 2)]
        if freeze_at < 1 or not stages:
            return []
        parameters = {path: parameter for path, parameter in self.body.named_parameters() if parameter.requires_grad}
        gradients = torch.autograd.grad(features[stages[-1]].sum(), list(parameters.values()), allow_unused=True)
        upstream = {
            path: parameter
            for (path, parameter), gradient in zip(parameters.items(), gradients)
            if gradient is not None
        }
        stem_only, first_stage = freeze_at == 1, self.body.feature_info.module_name()[0]
        return [parameter for path, parameter in upstream.items() if not (stem_only and _lies_in(path, first_stage))]


def load_body(body: nn.Module, checkpoint: str, use_ema: bool = True) -> None:
    """Loads a whole network's weights into its feature extractor, whose names differ: `stem.0` is `stem_0` there.

    Detectron2's own loading would match nothing and only warn.

    Raises:
        ValueError: The file is no checkpoint, or lacks a tensor, or holds one of another shape.
    """
    try:
        weights = load_state_dict(checkpoint, use_ema=use_ema, weights_only=True)  # older timm would run its code
    except Exception as error:  # whatever torch stumbles over in bytes that are no checkpoint
        raise ValueError(f'MODEL.TIMM.CHECKPOINT {checkpoint} cannot be read: {error}') from error
    known = {name.replace('.', '_', 1): tensor for name, tensor in weights.items()}
    known.update(weights)
    known.update({prefix + name: tensor for prefix in ('model.', 'body.') for name, tensor in weights.items()})
    wanted = body.state_dict()
    unfit = [name for name, tensor in wanted.items() if name not in known or known[name].shape != tensor.shape]
    if unfit:
        raise ValueError(
            f'MODEL.TIMM.CHECKPOINT {checkpoint} belongs to another network than MODEL.TIMM.NAME and KWARGS: '
            f'{unfit[0]} and {len(unfit) - 1} more of {len(wanted)} tensors are missing in it or have another shape.'
        )
    body.load_state_dict({name: known[name] for name in wanted})


def _create_body(name: str, **kwargs: Any) -> nn.Module:
    """The network with one output per stride of 4 to 32, the last map of each."""
    strides = _create(name, **{**kwargs, 'pretrained': False}).feature_info.info
    indices = {info['reduction']: index for index, info in enumerate(strides) if info['reduction'] in NAMES}
    if not indices:
        raise ValueError(f'MODEL.TIMM.NAME {name} has no feature map of stride 4, 8, 16 or 32.')
    return _create(name, out_indices=tuple(indices.values()), **kwargs)


def _create(name: str, **kwargs: Any) -> nn.Module:
    """The network, told where it understands that images will not keep to one size."""
    if timm.get_pretrained_cfg_value(name, 'fixed_input_size'):
        for any_size in (dict(strict_img_size=False), dict(dynamic_img_size=True)):
            try:
                return timm.create_model(name, features_only=True, **{**any_size, **kwargs})
            except TypeError:
                continue
    return timm.create_model(name, features_only=True, **kwargs)


def _freeze_norms(body: nn.Module, parameters: list[nn.Parameter] | None) -> None:
    """Freezes batch norm, all of it or that with these parameters.

    Detectron2's `convert_frozen_batchnorm` would drop the activation that timm's norm layers contain; timm's keeps it.
    """
    chosen = None if parameters is None else {id(parameter) for parameter in parameters}
    for parent in list(body.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BATCH_NORMS) and (chosen is None or id(child.weight) in chosen):
                setattr(parent, name, freeze_batch_norm_2d(child))


def _lies_in(path: str, module: str) -> bool:
    """Whether a parameter of the extractor belongs to a module of the network, which may be renamed there."""
    flat = module.replace('.', '_', 1)
    return path.startswith((f'{module}.', f'{flat}.', f'model.{module}.', f'body.{module}.'))


@BACKBONE_REGISTRY.register()
def build_keepaug_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """The bare network."""
    settings = cfg.MODEL.TIMM
    return TimmBackbone(
        settings.NAME,
        in_channels=input_shape.channels,
        checkpoint=settings.CHECKPOINT,
        use_ema=settings.USE_EMA,
        pretrained=settings.PRETRAINED,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        freeze_norm=settings.FREEZE_NORM,
        kwargs=dict(settings.KWARGS),
    )


@BACKBONE_REGISTRY.register()
def build_keepaug_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """The network with a feature pyramid: p2 to p6, for Faster and Mask R-CNN."""
    return _build_fpn(cfg, input_shape, lambda bottom_up: LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_keepaug_timm_retinanet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """The network with RetinaNet's pyramid: p3 to p7."""
    return _build_fpn(
        cfg,
        input_shape,
        lambda bottom_up: LastLevelP6P7(bottom_up.output_shape()['res5'].channels, cfg.MODEL.FPN.OUT_CHANNELS),
    )


def _build_fpn(cfg: CfgNode, input_shape: ShapeSpec, top_block) -> FPN:
    bottom_up = build_keepaug_timm_backbone(cfg, input_shape)
    absent = [name for name in cfg.MODEL.FPN.IN_FEATURES if name not in bottom_up.output_shape()]
    if absent:
        raise ValueError(
            f'MODEL.TIMM.NAME {cfg.MODEL.TIMM.NAME} has no {", ".join(absent)} for an FPN, only '
            f'{", ".join(bottom_up.output_shape())}: choose a network whose maps halve from stage to stage; for a '
            "plain vision transformer, use Detectron2's SimpleFeaturePyramid (projects/ViTDet)."
        )
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block(bottom_up),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
