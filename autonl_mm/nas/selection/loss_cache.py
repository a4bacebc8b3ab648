# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Losses of the networks that were tried, kept in a file."""
import json
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from mmengine.dist import broadcast_object_list, is_main_process

from autonl_mm.nas.supernet.space import SearchSpace, Subnet
from autonl_mm.runs.atomic_files import atomic_write
from autonl_mm.runs.text_files import check_json, read_json

Losses = Callable[[Sequence[Subnet], int, int], List[List[float]]]


class LossCache:
    """Losses by network and batch, computed once.

    All searches in one folder share them. Each call writes what it adds, so that after
    a kill the same searches go through what was tried without computing it again. With
    several ranks the first one reads and writes.

    Args:
        path (Path): The file.
        losses (Callable): Of networks, the losses of each on the batches from one
            index up to another, see :meth:`ProxyLoss.losses`.
        fingerprint (dict): What the losses depend on; plain data.
        space (SearchSpace, optional): The space of the networks. Defaults to None: the
            file's are not compared with it.

    Raises:
        ValueError: If the file is damaged, was made with something else or is of
            another space; names the file and the key.
    """

    def __init__(self, path: Path, losses: Losses, fingerprint: Dict[str, Any],
                 space: Optional[SearchSpace] = None):
        self.path = Path(path)
        self.compute = losses
        self.fingerprint = fingerprint
        self.space = space
        self.known: Dict[str, List[float]] = {}
        found: List[Optional[dict]] = [None]
        if is_main_process() and self.path.exists():
            found[0] = read_json(self.path)
        broadcast_object_list(found)
        if found[0] is not None:
            self._take(found[0])

    def _take(self, record: Any) -> None:
        check_json(record, dict(fingerprint={str: object}, losses={str: [float]}),
                   f'{self.path} is not a record of tried networks', 'remove it')
        different = [
            f'{name} {record["fingerprint"].get(name)!r}, now '
            f'{self.fingerprint.get(name)!r}'
            for name in {**self.fingerprint, **record['fingerprint']}
            if record['fingerprint'].get(name) != self.fingerprint.get(name)]
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

    def losses(self, networks: Sequence[Subnet], start: int,
               stop: int) -> List[List[float]]:
        """As the callable; what is known is not computed again.

        Args:
            networks (Sequence[list[tuple[int, ...]]]): The networks.
            start (int): Index of the first batch.
            stop (int): Index behind the last.
        """
        by_count: Dict[int, List[Subnet]] = {}
        for network in networks:
            count = len(self.known.setdefault(_name(network), []))
            if count < stop:
                by_count.setdefault(count, []).append(network)
        for count, group in by_count.items():
            for network, new in zip(group, self.compute(group, count, stop)):
                self.known[_name(network)] += new
        if by_count and is_main_process():
            record = dict(fingerprint=self.fingerprint, losses=self.known)
            atomic_write(self.path, json.dumps(record))
        return [self.known[_name(network)][start:stop] for network in networks]

    def __iter__(self) -> Iterator[Tuple[Subnet, List[float]]]:
        """Each network with the losses that are known of it."""
        for name, losses in self.known.items():
            yield _choices(name), losses


def _name(choices: Subnet) -> str:
    return ';'.join(','.join(map(str, block)) for block in choices)


def _choices(name: str) -> Subnet:
    return [tuple(map(int, block.split(','))) for block in name.split(';')]
