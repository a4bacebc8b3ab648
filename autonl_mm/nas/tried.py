# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Losses of the networks that were tried, kept in a file."""
import json
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from mmengine.dist import broadcast_object_list, is_main_process

from autonl_mm.checkpoint import write_whole
from autonl_mm.text_files import read_json

from .space import Choices

Losses = Callable[[Sequence[Choices], int, int], List[List[float]]]


class TriedNetworks:
    """Losses by network and batch, computed once.

    All searches in one folder share them. Each call writes what it adds, so that after
    a kill the same searches go through what was tried without computing it again. With
    several ranks the first one reads and writes.

    Args:
        path (Path): The file.
        losses (Callable): Of networks, the losses of each on the batches from one
            index up to another, see :meth:`ProxyLoss.losses`.
        made_with (dict): What the losses depend on; plain data.

    Raises:
        ValueError: If the file is damaged or was made with something else.
    """

    def __init__(self, path: Path, losses: Losses, made_with: Dict[str, Any]):
        self.path = Path(path)
        self.compute = losses
        self.made_with = made_with
        self.known: Dict[str, List[float]] = {}
        found: List[Optional[dict]] = [None]
        if is_main_process() and self.path.exists():
            found[0] = read_json(self.path)
        broadcast_object_list(found)
        if found[0] is not None:
            self._take(found[0])

    def _take(self, record: Any) -> None:
        if not isinstance(record, dict) or {'made_with', 'losses'} - record.keys():
            raise ValueError(f'{self.path} is not a record of tried networks: remove '
                             'it')
        different = [
            f'{name} {record["made_with"].get(name)}, now {self.made_with.get(name)}'
            for name in {**self.made_with, **record['made_with']}
            if record['made_with'].get(name) != self.made_with.get(name)]
        if different:
            raise ValueError(
                f'{self.path} is of networks that were tried with '
                f'{"; ".join(different)}: remove it, or give another --out')
        self.known = record['losses']

    def losses(self, networks: Sequence[Choices], start: int,
               stop: int) -> List[List[float]]:
        """As the callable; what is known is not computed again.

        Args:
            networks (Sequence[list[tuple[int, ...]]]): The networks.
            start (int): Index of the first batch.
            stop (int): Index behind the last.
        """
        by_count: Dict[int, List[Choices]] = {}
        for network in networks:
            count = len(self.known.setdefault(_name(network), []))
            if count < stop:
                by_count.setdefault(count, []).append(network)
        for count, group in by_count.items():
            for network, new in zip(group, self.compute(group, count, stop)):
                self.known[_name(network)] += new
        if by_count and is_main_process():
            record = dict(made_with=self.made_with, losses=self.known)
            write_whole(self.path, json.dumps(record))
        return [self.known[_name(network)][start:stop] for network in networks]

    def __iter__(self) -> Iterator[Tuple[Choices, List[float]]]:
        """Each network with the losses that are known of it."""
        for name, losses in self.known.items():
            yield ([tuple(map(int, block.split(','))) for block in name.split(';')],
                   losses)


def _name(choices: Choices) -> str:
    return ';'.join(','.join(map(str, block)) for block in choices)
