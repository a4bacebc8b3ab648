# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Losses of the networks that were tried, kept in a file."""
import json
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from mmengine.dist import broadcast_object_list, is_main_process

from autonl_mm.checkpoint import write_whole
from autonl_mm.text_files import check_json, read_json

from .space import Choices, SearchSpace

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
        space (SearchSpace, optional): The space of the networks. Defaults to None: the
            file's are not compared with it.

    Raises:
        ValueError: If the file is damaged, was made with something else or is of
            another space; names the file and the key.
    """

    def __init__(self, path: Path, losses: Losses, made_with: Dict[str, Any],
                 space: Optional[SearchSpace] = None):
        self.path = Path(path)
        self.compute = losses
        self.made_with = made_with
        self.space = space
        self.known: Dict[str, List[float]] = {}
        found: List[Optional[dict]] = [None]
        if is_main_process() and self.path.exists():
            found[0] = read_json(self.path)
        broadcast_object_list(found)
        if found[0] is not None:
            self._take(found[0])

    def _take(self, record: Any) -> None:
        check_json(record, dict(made_with={str: object}, losses={str: [float]}),
                   f'{self.path} is not a record of tried networks', 'remove it')
        different = [
            f'{name} {record["made_with"].get(name)!r}, now '
            f'{self.made_with.get(name)!r}'
            for name in {**self.made_with, **record['made_with']}
            if record['made_with'].get(name) != self.made_with.get(name)]
        if different:
            raise ValueError(
                f'{self.path} is of networks that were tried with '
                f'{"; ".join(different)}: remove it, or give another --out')
        for name in record['losses']:
            if not self._is_network(name):
                raise ValueError(f'{self.path} is of another search space: losses has '
                                 f'{name[:80]!r}, which is no network of it: remove '
                                 'the file, or give another --out')
        self.known = record['losses']

    def _is_network(self, name: str) -> bool:
        try:
            choices = _choices(name)
        except ValueError:
            return False
        inside = self.space is None or self.space.has(choices)
        return inside and _name(choices) == name

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
            yield _choices(name), losses


def _name(choices: Choices) -> str:
    return ';'.join(','.join(map(str, block)) for block in choices)


def _choices(name: str) -> Choices:
    return [tuple(map(int, block.split(','))) for block in name.split(';')]
