# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Check of the classes that a checkpoint was trained with."""
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..checkpoints import MismatchError
from ..classes import built_leaves, classes_of, different_classes


class CheckpointClassesHook(Hook):
    """Refuse to evaluate a checkpoint on data with other classes.

    Raises:
        MismatchError: If the classes of the checkpoint and the classes of the test
            data differ; names both.
    """

    priority = 'HIGHEST'

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the checkpoint's ``dataset_meta`` with the test data."""
        trained = classes_of((checkpoint.get('meta') or {}).get('dataset_meta'))
        tested = runner.test_dataloader.dataset
        for place, dataset in built_leaves('test_dataloader.dataset', tested):
            classes = classes_of(getattr(dataset, 'metainfo', None))
            if trained and classes and classes != trained:
                raise MismatchError(
                    str(different_classes(place, classes, f'{runner._load_from}',
                                          trained)) + '. To evaluate the checkpoint '
                    'nevertheless, write its weights alone with '
                    'tools/model_converters/publish_model.py')
