"""Models for images: plain functions that return a model, made of nothing that a user could not write down as well."""

from jaxbp.combinators import Residual, Serial
from jaxbp.core.layer import Layer
from jaxbp.initializers import He
from jaxbp.layers.activation import ReLU
from jaxbp.layers.batch_norm import BatchNorm
from jaxbp.layers.dense import Dense
from jaxbp.layers.dropout import Dropout
from jaxbp.layers.reshape import Flatten
from jaxbp.layers.spatial.convolution import Conv
from jaxbp.layers.spatial.pooling import GlobalAvgPool, MaxPool


def lenet(
    outputs: int = 10,
    features: tuple[int, ...] = (32, 64),
    window: tuple[int, int] = (5, 5),
    hidden: int = 256,
    dropout: float = 0.0,
) -> Serial:
    """Convolution and max-pooling by turns, then a dense layer: like LeNet-5 (LeCun et al., 1998), with relu.

    The relu comes after the pooling, where it has a quarter of the work: max and relu may change places.

    Args:
        outputs: number of classes.
        features: channels of each convolution; each is followed by a 2x2 max-pooling.
        window: of the convolutions.
        hidden: units of the dense layer.
        dropout: rate before each dense layer; 0 leaves it out.
    """
    stages: list[Layer] = []
    for channels in features:
        stages += [Conv(channels, window, initializer=He()), MaxPool((2, 2)), ReLU()]
    drop = [Dropout(dropout)] if dropout else []
    return Serial(*stages, Flatten(), *drop, Dense(hidden, initializer=He()), ReLU(), *drop, Dense(outputs))


def resnet(outputs: int = 10, blocks: int = 3, features: tuple[int, ...] = (16, 32, 64)) -> Serial:
    """A residual network as He et al. (2015), arXiv 1512.03385, section 4.2, trained on CIFAR: 6 `blocks` + 2 layers.

    Args:
        outputs: number of classes.
        blocks: residual blocks in each stage; 3 make ResNet-20.
        features: channels of each stage; every stage but the first halves the image.
    """
    body: list[Layer] = [Conv(features[0], (3, 3), bias=False, initializer=He()), BatchNorm(), ReLU()]
    for stage, channels in enumerate(features):
        for block in range(blocks):
            first = block == 0 and stage > 0
            body += [residual_block(channels, stride=2 if first else 1, project=first), ReLU()]
    return Serial(*body, GlobalAvgPool(), Dense(outputs))


def residual_block(features: int, stride: int = 1, project: bool = False) -> Residual:
    """Two 3x3 convolutions with batch normalisation; `project` maps the shortcut where stride or channels change."""
    body = Serial(
        Conv(features, (3, 3), stride, bias=False, initializer=He()),
        BatchNorm(),
        ReLU(),
        Conv(features, (3, 3), bias=False, initializer=He()),
        BatchNorm(),
    )
    shortcut = Serial(Conv(features, (1, 1), stride, bias=False, initializer=He()), BatchNorm()) if project else None
    return Residual(body, shortcut)
