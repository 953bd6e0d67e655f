"""The search times that the paper prints, to compare with.

Kim et al., "Exploring Lottery Ticket Hypothesis in Spiking Neural Networks" (ECCV 2022, arXiv 2207.01382),
supplementary, Tables 1 and 3; one RTX 2080 Ti, batch 128, T = 5, Early-Time at T = 3.

Table 1 says "seconds per iteration". It must mean an epoch of CIFAR, 391 iterations: 300 epochs at 44.49 s are 3.7
hours, and Table 3 has 14.97 hours for four prunings of VGG16. The unit is corrected here.
"""

from dataclasses import dataclass

SPARSITIES = {4: 68.30, 8: 89.91, 11: 95.69, 14: 98.13}  # prunings of 25% -> percent of all parameters
TIMESTEPS, EARLY_TIMESTEPS = 5, 3
BATCH = 128
EPOCH = 391  # iterations of an epoch of CIFAR, and of Table 1's, whatever the data set
REWIND_EPOCH = 20

SECONDS_PER_EPOCH = {  # Table 1, by network and T; data loading included
    "vgg16": {1: 26.45, 2: 29.15, 3: 32.44, 4: 37.26, 5: 44.49},
    "resnet19": {1: 27.57, 2: 31.14, 3: 39.76, 4: 49.85, 5: 61.50},
}
EPOCHS = {"cifar10": 300, "cifar100": 300, "svhn": 150, "fashion_mnist": 150}  # epochs of a training

# Table 3: data set, network, method, and the figure at each of SPARSITIES.
_HOURS = """\
cifar10 vgg16 IMP 14.97 29.86 40.84 51.99
cifar10 vgg16 IMP+ET 11.19 22.00 30.11 38.26
cifar10 vgg16 EB 1.96 0.74 0.11 0.09
cifar10 vgg16 EB+ET 1.44 0.55 0.07 0.06
cifar10 resnet19 IMP 21.01 42.20 58.91 73.54
cifar10 resnet19 IMP+ET 13.35 26.62 37.27 46.40
cifar10 resnet19 EB 2.49 0.87 0.24 0.08
cifar10 resnet19 EB+ET 1.63 0.58 0.17 0.07
cifar100 vgg16 IMP 15.02 29.99 41.03 52.05
cifar100 vgg16 IMP+ET 11.24 22.42 30.53 38.32
cifar100 vgg16 EB 2.27 0.99 0.32 0.06
cifar100 vgg16 EB+ET 1.66 0.73 0.24 0.05
cifar100 resnet19 IMP 21.21 42.29 59.17 73.52
cifar100 resnet19 IMP+ET 13.56 27.05 37.88 46.65
cifar100 resnet19 EB 3.08 1.71 0.43 0.09
cifar100 resnet19 EB+ET 2.00 1.12 0.29 0.07
svhn vgg16 IMP 7.42 14.99 20.56 26.09
svhn vgg16 IMP+ET 5.48 11.03 15.09 19.14
svhn vgg16 EB 0.76 0.23 0.11 0.08
svhn vgg16 EB+ET 0.56 0.18 0.09 0.07
svhn resnet19 IMP 10.25 20.59 28.74 35.87
svhn resnet19 IMP+ET 6.62 13.25 18.22 22.68
svhn resnet19 EB 1.44 0.80 0.35 0.12
svhn resnet19 EB+ET 0.56 0.18 0.09 0.07
fashion_mnist vgg16 IMP 7.52 14.77 20.40 26.10
fashion_mnist vgg16 IMP+ET 5.59 11.00 15.05 19.13
fashion_mnist vgg16 EB 0.81 0.32 0.08 0.06
fashion_mnist vgg16 EB+ET 0.60 0.24 0.07 0.05
fashion_mnist resnet19 IMP 10.35 20.63 28.92 35.90
fashion_mnist resnet19 IMP+ET 6.63 13.10 18.34 22.83
fashion_mnist resnet19 EB 1.53 0.76 0.20 0.10
fashion_mnist resnet19 EB+ET 1.01 0.51 0.15 0.08
"""
_GAINS = """\
cifar10 vgg16 IMP+ET 1.34 1.35 1.35 1.35
cifar10 vgg16 EB+ET 1.36 1.34 1.18 1.12
cifar10 resnet19 IMP+ET 1.57 1.59 1.58 1.58
cifar10 resnet19 EB+ET 1.52 1.49 1.38 1.16
cifar100 vgg16 IMP+ET 1.33 1.34 1.34 1.36
cifar100 vgg16 EB+ET 1.36 1.35 1.31 1.12
cifar100 resnet19 IMP+ET 1.56 1.56 1.56 1.57
cifar100 resnet19 EB+ET 1.53 1.52 1.45 1.16
svhn vgg16 IMP+ET 1.35 1.35 1.36 1.36
svhn vgg16 EB+ET 1.34 1.29 1.22 1.18
svhn resnet19 IMP+ET 1.54 1.55 1.57 1.58
svhn resnet19 EB+ET 1.51 1.49 1.43 1.25
fashion_mnist vgg16 IMP+ET 1.34 1.34 1.35 1.36
fashion_mnist vgg16 EB+ET 1.34 1.31 1.18 1.12
fashion_mnist resnet19 IMP+ET 1.56 1.57 1.57 1.57
fashion_mnist resnet19 EB+ET 1.51 1.49 1.38 1.16
"""

Key = tuple[str, str, str, int]


def _read(text: str) -> dict[Key, float]:
    figures = {}
    for line in text.splitlines():
        dataset, arch, method, *values = line.split()
        for prunings, value in zip(SPARSITIES, values, strict=True):
            figures[dataset, arch, method, prunings] = float(value)
    return figures


HOURS = _read(_HOURS)  # hours of the search, without the final training
GAINS = _read(_GAINS)  # gains of Early-Time as printed; some differ from the quotient of the hours


@dataclass(frozen=True)
class EarlyBirdStop:
    """The number of `epochs` after which a mask search ended; `source` says how that is known."""

    epochs: float
    source: str


def early_bird_stop(dataset: str, arch: str, prunings: int) -> EarlyBirdStop | None:
    """Return the epochs that the printed hours of EB amount to at Table 1's seconds, or None if no hours are printed.

    The paper prints no epochs, and hours with two digits: below 0.3 hours, this is good to a tenth at best.
    """
    hours = HOURS.get((dataset, arch, "EB", prunings))
    if hours is None:
        return None
    return EarlyBirdStop(
        3600 * hours / SECONDS_PER_EPOCH[arch][TIMESTEPS], f"{hours} hours in the paper's Table 3, by its Table 1"
    )
