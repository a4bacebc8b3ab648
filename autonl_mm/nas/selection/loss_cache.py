# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Losses of the candidates that were tried, kept in a file."""
import json
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from mmengine.dist import broadcast_object_list, is_main_process

from autonl_mm.nas.supernet.space import SearchSpace, Subnet
from autonl_mm.runs.atomic_files import atomic_write
from autonl_mm.runs.text_files import check_json, read_json

from .evolution import Losses


class LossCache:
    """Losses by subnet and batch, computed once.

    All searches in one folder share the file. Each call writes the losses that it
    adds, so that the same searches continue after a kill and compute no loss twice.
    With several ranks the first one reads and writes.

    Args:
        path (Path): The file.
        losses (Callable): Computes losses, see
            :data:`~autonl_mm.nas.selection.evolution.Losses`.
        fingerprint (dict): Identifies the losses: all values that they depend on, plain
            data. The first rank's counts.
        images (Sequence[int]): Images of each batch.
        space (SearchSpace, optional): The space of the subnets. Defaults to None: the
            subnets of the file are not compared with it.

    Raises:
        ValueError: If the file is damaged, was made with something else or is of
            another space; names the file and the key.
    """

    def __init__(self, path: Path, losses: Losses, fingerprint: Dict[str, Any],
                 images: Sequence[int], space: Optional[SearchSpace] = None):
        self.path = Path(path)
        self.compute = losses
        self.images = images
        self.space = space
        self.known: Dict[str, List[float]] = {}
        found: List[Optional[dict]] = [fingerprint, None]
        if is_main_process() and self.path.exists():
            found[1] = read_json(self.path)
        broadcast_object_list(found)
        self.fingerprint, record = found
        if record is not None:
            self._take(record)

    def _take(self, record: Any) -> None:
        check_json(record, dict(fingerprint={str: object}, losses={str: [float]}),
                   f'{self.path} is not a file of losses of candidates', 'remove it')
        different = [
            f'{name} {record["fingerprint"].get(name)!r}, now '
            f'{self.fingerprint.get(name)!r}'
            for name in {**self.fingerprint, **record['fingerprint']}
            if record['fingerprint'].get(name) != self.fingerprint.get(name)]
        if different:
            raise ValueError(
                f'{self.path} is of candidates that were tried with '
                f'{"; ".join(different)}: remove it, or give another --out')
        for name in record['losses']:
            if not self._is_subnet(name):
                raise ValueError(f'{self.path} is of another search space: losses has '
                                 f'{name[:80]!r}, which is no subnet of it: remove '
                                 'the file, or give another --out')
        self.known = record['losses']

    def _is_subnet(self, name: str) -> bool:
        try:
            subnet = _subnet(name)
        except ValueError:
            return False
        inside = self.space is None or self.space.has(subnet)
        return inside and _name(subnet) == name

    def losses(self, subnets: Sequence[Subnet], start: int,
               stop: int) -> List[List[float]]:
        """Look up losses, and compute those that are not known.

        Args:
            subnets (Sequence[Subnet]): The subnets.
            start (int): Index of the first batch.
            stop (int): Index after the last batch.

        Returns:
            list[list[float]]: For each subnet one loss for each batch.
        """
        by_count: Dict[int, List[Subnet]] = {}
        for subnet in subnets:
            count = len(self.known.setdefault(_name(subnet), []))
            if count < stop:
                by_count.setdefault(count, []).append(subnet)
        for count, group in by_count.items():
            for subnet, new in zip(group, self.compute(group, count, stop)):
                self.known[_name(subnet)] += new
        if by_count and is_main_process():
            record = dict(fingerprint=self.fingerprint, losses=self.known)
            atomic_write(self.path, json.dumps(record))
        return [self.known[_name(subnet)][start:stop] for subnet in subnets]

    def __iter__(self) -> Iterator[Tuple[Subnet, List[float]]]:
        """Each subnet with its known losses."""
        for name, losses in self.known.items():
            yield _subnet(name), losses


def _name(subnet: Subnet) -> str:
    return ';'.join(','.join(map(str, block)) for block in subnet)


def _subnet(name: str) -> Subnet:
    return [tuple(map(int, block.split(','))) for block in name.split(';')]
