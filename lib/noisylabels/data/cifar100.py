"""CIFAR-100: 50,000 and 10,000 photographs of 32x32 pixels, a hundred classes in twenty
superclasses.

Sources: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009;
its human labels, CIFAR-100N: J. Wei et al., "Learning with Noisy Labels Revisited: A
Study Using Real-World Human Annotations", ICLR 2022.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from . import cifar
from .sets import About, Dataset, register

CIFAR100_CLASSES = tuple("""
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy
    bridge bus butterfly camel can castle caterpillar cattle chair chimpanzee clock
    cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
    forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion
    lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange
    orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper
    snail snake spider squirrel streetcar sunflower sweet_pepper table tank
    telephone television tiger tractor train trout tulip turtle wardrobe whale
    willow_tree wolf woman worm
    """.split())
CIFAR100_SUPERCLASSES = tuple("""
    aquatic_mammals fish flowers food_containers fruit_and_vegetables
    household_electrical_devices household_furniture insects large_carnivores
    large_man-made_outdoor_things large_natural_outdoor_scenes
    large_omnivores_and_herbivores medium_mammals non-insect_invertebrates people
    reptiles small_mammals trees vehicles_1 vehicles_2
    """.split())
CIFAR100_COARSE: tuple[int, ...] = (
    *(4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11),
    *(6, 11, 5, 10, 7, 6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5),
    *(5, 19, 8, 8, 15, 13, 14, 17, 18, 10, 16, 4, 17, 4, 2, 0, 17, 4, 18, 17),
    *(10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13, 15, 13),
    *(16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13),
)
"""The superclass of each of the 100 classes; five classes have the same one."""

SOURCE = cifar.SOURCES["cifar100"] = cifar.Source(
    name="cifar100", title="CIFAR-100", binary_folder="cifar-100-binary",
    python_folder="cifar-100-python", label_keys=("coarse_labels", "fine_labels"),
    train=(cifar.Part("train.bin", "train", 50_000,
                      "e207cd2e05b73b1393c74c7f5e7bea451d63e08e"),),
    test=cifar.Part("test.bin", "test", 10_000,
                    "8fb6623e830365ff53cf14adec797474f5478006"))
HUMAN = {"noisy_fine": "noisy_label", "noisy_coarse": "noisy_coarse_label"}


def read(root: Path) -> Dataset:
    raw = cifar.read(cifar.SOURCES["cifar100"], root)
    return Dataset(
        name="cifar100",
        x_train=raw.x_train,
        y_train=raw.labels_train[1],
        x_test=raw.x_test,
        y_test=raw.labels_test[1],
        class_names=CIFAR100_CLASSES,
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
        coarse_train=raw.labels_train[0],
        coarse_test=raw.labels_test[0],
        coarse_names=CIFAR100_SUPERCLASSES,
    )


register(About(
    "cifar100", read, of_each_class=(500,) * 100, test=10_000, human=HUMAN,
    folders=(SOURCE.binary_folder, SOURCE.python_folder),
    download=partial(cifar.download, "cifar100")))
