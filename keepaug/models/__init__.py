"""Models: importing this package registers the CIFAR networks with timm."""
from . import cifar as cifar
from keepaug.models.early_exit import EarlyExit as EarlyExit
