"""Models: importing this package registers the networks of the papers with timm."""

from keepaug.models.early_exit import EarlyExit as EarlyExit

from . import alexnet as alexnet
from . import cifar_preact_resnet as cifar_preact_resnet
from . import cifar_resnet as cifar_resnet
from . import densenet264 as densenet264
from . import pyramidnet as pyramidnet
from . import shake_shake as shake_shake
from . import vgg_gap as vgg_gap
