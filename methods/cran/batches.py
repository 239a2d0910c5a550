"""Batches of different images with one text each, drawn at random or as groups of hard negatives."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cran_bench import FeatureRows

from .recipe import Recipe

BLOCK = 4096
POOL = 4  # nearest neighbours kept for each one that is used, since some are in other batches already


@dataclass(frozen=True)
class Batches:
    """The batches of every epoch.

    Attributes:
        recipe: the options.
        image_of: (T,) image of each text, non-decreasing, on the CPU.
        lengths: (T,) characters of each text, on the CPU.
        neighbours: (N, k) nearest neighbours of each image, nearest first; None for no batches of hard negatives.
    """

    recipe: Recipe
    image_of: Tensor
    lengths: Tensor
    neighbours: Tensor | None = None

    @property
    def images(self) -> int:
        """Number of images N."""
        return int(self.image_of[-1]) + 1

    def _counts(self) -> Tensor:
        return torch.bincount(self.image_of, minlength=self.images)

    @property
    def steps(self) -> int:
        """Largest number of batches in an epoch."""
        if self.recipe.batches.epoch_mode == "batches":
            return self.images
        counts = self._counts()
        passes = range(int(counts.max())) if self.recipe.batches.caption_sampling == "all" else range(1)
        return sum(self._batch_count(int((counts > k).sum())) for k in passes)

    def _batch_count(self, images: int) -> int:
        """Number of batches for so many images; each has at least two images where there are two."""
        return min(math.ceil(images / self.recipe.batches.batch_size), max(1, images // 2))

    def epoch(self, number: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (B,) images, all different, and a text of each (B,), on the CPU; B is at least 2."""
        left = self.steps if self.recipe.batches.epoch_mode == "batches" else -1
        while True:
            for chosen in self._captions(generator):
                for images in self._pass(chosen, number, generator):
                    if len(images) > 1:  # one image alone has no negative
                        yield images, chosen[images]
                        left -= 1
                    if left == 0:
                        return
            if left < 0:
                return

    def _captions(self, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield one text of each image (N,), once or until all texts are used; -1 where an image has no more."""
        counts = self._counts()
        first = counts.cumsum(0) - counts
        if self.recipe.batches.caption_sampling == "first":
            yield first
        elif self.recipe.batches.caption_sampling == "random":
            yield first + (torch.rand(len(counts), generator=generator) * counts).long()
        else:
            draw = torch.rand(len(self.image_of), generator=generator, dtype=torch.float64)
            shuffled = (draw + self.image_of).argsort()  # texts stay with their image, in random order
            for k in range(int(counts.max())):
                yield torch.where(counts > k, shuffled[(first + k).clamp_max(len(shuffled) - 1)], -1)

    def _pass(self, chosen: Tensor, number: int, generator: torch.Generator) -> list[Tensor]:
        """Batches of nearly equal size in which each image with a text in `chosen` occurs once."""
        images = (chosen >= 0).nonzero().flatten()
        order = images[torch.randperm(len(images), generator=generator)]
        count = self._batch_count(len(order))
        plus, hard = self.recipe.plus, 0
        if self.neighbours is not None and number >= plus.hard_negatives_from:
            hard = round(plus.hard_negative_batches * count)
        if hard:
            order = self._grouped(order.tolist(), hard * math.ceil(len(order) / count), self.lengths[chosen])
        batches = list(torch.tensor_split(order, count))
        if self.recipe.batches.bucket > 1:
            batches[hard:] = self._sorted_by_length(batches[hard:], chosen)
        return [batches[k] for k in torch.randperm(count, generator=generator).tolist()]

    def _sorted_by_length(self, batches: list[Tensor], chosen: Tensor) -> list[Tensor]:
        """The same images with every `bucket` batches divided anew, from short texts to long ones."""
        divided: list[Tensor] = []
        size = self.recipe.batches.bucket
        for a in range(0, len(batches), size):
            some = batches[a : a + size]
            images = torch.cat(some)
            by_length = images[self.lengths[chosen[images]].argsort(stable=True)]
            divided += torch.split(by_length, [len(batch) for batch in some])
        return divided

    def _grouped(self, order: list[int], wanted: int, lengths: Tensor) -> Tensor:
        """The same images: about `wanted` of them in groups of an image and its neighbours, then the others.

        Groups are sorted by the longest of their texts, of these (N,) lengths, unless `bucket` is 1.
        """
        assert self.neighbours is not None
        near = self.neighbours.tolist()
        used = bytearray(b"\1" * self.images)
        for image in order:
            used[image] = False
        groups: list[list[int]] = []
        left = wanted
        for image in order:
            if left <= 0:
                break
            if used[image]:
                continue
            free = [other for other in near[image] if not used[other]]
            group = [image, *free[: self.recipe.plus.hard_negative_group - 1]]
            for member in group:
                used[member] = True
            groups.append(group)
            left -= len(group)
        if self.recipe.batches.bucket > 1:
            long = lengths.tolist()
            groups.sort(key=lambda group: max(long[member] for member in group))
        return torch.tensor([*chain.from_iterable(groups), *(image for image in order if not used[image])])


def nearest(features: FeatureRows | Tensor, count: int) -> Tensor:
    """The exact nearest neighbours of each row by cosine, (N, D) features to (N, count) int64.

    Computed in tiles, each of which serves its rows and its columns: N^2 D operations.
    """
    total = len(features)
    count = min(count, total - 1)
    best: dict[int, tuple[Tensor, Tensor]] = {}
    for a in range(0, total, BLOCK):
        rows = normalize(features[a : a + BLOCK], dim=1)
        for b in range(a, total, BLOCK):
            similarity = rows @ (rows if a == b else normalize(features[b : b + BLOCK], dim=1)).T
            if a == b:
                similarity.fill_diagonal_(-torch.inf)
            for tile, own, other in ((similarity, a, b), (similarity.T, b, a))[: 1 + (a != b)]:
                near, places = tile.topk(min(count, tile.shape[1]), dim=1)
                places += other
                if own in best:
                    near, places = torch.cat([best[own][0], near], dim=1), torch.cat([best[own][1], places], dim=1)
                near, kept = near.topk(min(count, near.shape[1]), dim=1)
                best[own] = near, places.gather(1, kept)
    return torch.cat([places for _, places in best.values()]).cpu()
