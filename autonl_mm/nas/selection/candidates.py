# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The last stage of every search: candidates are tried on the same images."""
from typing import Optional

from mmengine.model import BaseModel
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from torch.utils.data import Dataset

from autonl_mm.datasets.holdout_dataset import count_shared

from .proxy_loss import ProxyLoss


class CandidateSelection:
    """Which candidates are tried, and on which images.

    Several parts of a subnet together are less important than the sum of their
    importances, and neither gates nor the training of whole subnets say which subnet of
    a cost is best. So many candidates within 2% of the target run with the supernet's
    weights on the same images. The candidate with the lowest loss is chosen.

    Args:
        candidates (int): Subnets to try, besides a given first one. Defaults to 256.
        num_samples (int): Images to try candidates on, of all ranks together.
            Defaults to 8192.
        held_out (dict, optional): Config of a dataset of held-out images, on which
            candidates are tried instead of training images, such as a
            :class:`~autonl_mm.datasets.HoldoutDataset`. Its pipeline must load the
            annotations. Defaults to None.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, candidates: int = 256, num_samples: int = 8192,
                 held_out: Optional[dict] = None):
        for name, number, least in (('candidates', candidates, 0),
                                    ('num_samples', num_samples, 1)):
            if number < least:
                raise ValueError(
                    f'{name} is {number}, expected an integer of at least {least}')
        self.candidates = candidates
        self.num_samples = num_samples
        self.held_out = held_out

    def open(self, runner: Runner) -> None:
        """Build the dataset of held-out images.

        Args:
            runner (Runner): The runner of a training, which may be finished.

        Raises:
            ValueError: If a held-out image is trained on or evaluated on.
        """
        self.images = build_held_out(runner, self.held_out)

    def proxy_loss(self, runner: Runner, model: BaseModel) -> ProxyLoss:
        """The losses by which candidates are compared.

        Args:
            runner (Runner): The runner of the training, with its optimiser.
            model (CostAwareModel): The model of the search.
        """
        return ProxyLoss(
            runner, model.model, model.exported_as, self.num_samples, self.images)


def build_held_out(runner: Runner, config: Optional[dict]) -> Optional[Dataset]:
    """Build the dataset of held-out images.

    Args:
        runner (Runner): The runner of the training.
        config (dict, optional): Config of the dataset; None if no images are held out.

    Raises:
        ValueError: If a held-out image is trained on or evaluated on.
    """
    if config is None:
        return None
    dataset = DATASETS.build(config)
    others = dict(train_dataloader=runner.train_dataloader.dataset)
    if runner.val_loop is not None:
        others['val_dataloader'] = runner.val_loop.dataloader.dataset
    for name, other in others.items():
        count = count_shared(dataset, other)
        if count is None:
            runner.logger.warning(
                f'search: images of held_out and of {name} cannot be compared, because '
                'the datasets do not give img_path or img of both: make sure that they '
                'are different images')
        elif count:
            raise ValueError(
                f'at least {count} images of held_out are images of {name} too: keep '
                'them out of training and evaluation, for instance with '
                "autonl_mm.HoldoutDataset, split='val' in held_out and split='train' "
                'in train_dataloader')
    return dataset
