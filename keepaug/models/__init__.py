"""Models: importing this package registers the CIFAR networks with timm."""
from . import cifar as cifar
