"""Image classifiers in Flax NNX with torchvision's names and exposed intermediate activations."""

from gcpatch.networks.graph import Graph as Graph
from gcpatch.networks.network import Network as Network
from gcpatch.networks.network import Preprocessing as Preprocessing
from gcpatch.networks.parameters import ParameterError as ParameterError
from gcpatch.networks.parameters import fill as fill
from gcpatch.networks.parameters import parameters as parameters
from gcpatch.networks.resnet import ResNet as ResNet
from gcpatch.networks.vgg import VGG as VGG
from gcpatch.networks.zoo import MINIS as MINIS
from gcpatch.networks.zoo import NAMES as NAMES
from gcpatch.networks.zoo import PAPER as PAPER
from gcpatch.networks.zoo import SMALL as SMALL
from gcpatch.networks.zoo import THIN as THIN
from gcpatch.networks.zoo import create as create
from gcpatch.networks.zoo import random as random
