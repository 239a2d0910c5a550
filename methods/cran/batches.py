"""Which images and texts meet in a batch: different images, at random or among their look-alikes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cran_bench.frontend.feature_rows import FeatureRows

from .recipe import Recipe

BLOCK = 4096
POOL = 4  # look-alikes known per one that is wanted, since some are used up


@dataclass(frozen=True)
class Batches:
    """The batches of every epoch.

    Attributes:
        image_of: (T,) image of each text, non-decreasing.
        lengths: (T,) characters of each text, on the CPU.
        neighbours: (N, k) each image's look-alikes, nearest first; None where no batch is made of them.
    """

    recipe: Recipe
    image_of: Tensor
    lengths: Tensor
    neighbours: Tensor | None = None

    @property
    def images(self) -> int:
        """N."""
        return int(self.image_of[-1]) + 1

    def _counts(self) -> Tensor:
        return torch.bincount(self.image_of.cpu(), minlength=self.images)

    @property
    def steps(self) -> int:
        """Batches in an epoch, at most."""
        if self.recipe.epoch_mode == "batches":
            return self.images
        counts = self._counts()
        passes = range(int(counts.max())) if self.recipe.caption_sampling == "all" else range(1)
        return sum(self._batches_of(int((counts > k).sum())) for k in passes)

    def _batches_of(self, images: int) -> int:
        """How many batches so many images make: none holds one image, where there are two."""
        return min(math.ceil(images / self.recipe.batch_size), max(1, images // 2))

    def epoch(self, number: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of (B,) images, all different, and (B,) texts of theirs; B is 2 at least."""
        left = self.steps if self.recipe.epoch_mode == "batches" else -1
        while True:
            for chosen in self._captions(generator):
                for images in self._a_pass(chosen, number, generator):
                    if len(images) > 1:  # one image alone has no negative
                        yield images.to(self.image_of.device), chosen[images].to(self.image_of.device)
                        left -= 1
                    if left == 0:
                        return
            if left < 0:
                return

    def _captions(self, generator: torch.Generator) -> Iterator[Tensor]:
        """(N,) a text of each image, once or as often as it takes to use all; -1 where an image has no more."""
        counts = self._counts()
        first = counts.cumsum(0) - counts
        if self.recipe.caption_sampling == "first":
            yield first
        elif self.recipe.caption_sampling == "random":
            yield first + (torch.rand(len(counts), generator=generator) * counts).long()
        else:
            draw = torch.rand(len(self.image_of), generator=generator, dtype=torch.float64)
            shuffled = (draw + self.image_of.cpu()).argsort()  # texts stay with their image, in random order
            for k in range(int(counts.max())):
                yield torch.where(counts > k, shuffled[(first + k).clamp_max(len(shuffled) - 1)], -1)

    def _a_pass(self, chosen: Tensor, number: int, generator: torch.Generator) -> list[Tensor]:
        """Each image that has a text among `chosen` once, in batches of nearly equal size."""
        images = (chosen >= 0).nonzero().flatten()
        order = images[torch.randperm(len(images), generator=generator)]
        count = self._batches_of(len(order))
        alike = round(self.recipe.lookalikes * count) if number >= self.recipe.lookalikes_from else 0
        if self.neighbours is None:
            alike = 0
        if alike:
            order = self._grouped(order.tolist(), alike * math.ceil(len(order) / count))
        batches = list(torch.tensor_split(order, count))
        if self.recipe.bucket > 1:
            batches[alike:] = self._of_a_length(batches[alike:], chosen)
        return [batches[k] for k in torch.randperm(count, generator=generator).tolist()]

    def _of_a_length(self, batches: list[Tensor], chosen: Tensor) -> list[Tensor]:
        """Every `bucket` batches dealt anew, from those whose texts are short to those whose texts are long."""
        dealt: list[Tensor] = []
        for a in range(0, len(batches), self.recipe.bucket):
            some = batches[a : a + self.recipe.bucket]
            images = torch.cat(some)
            by_length = images[self.lengths[chosen[images]].argsort(stable=True)]
            dealt += torch.split(by_length, [len(batch) for batch in some])
        return dealt

    def _grouped(self, order: list[int], wanted: int) -> Tensor:
        """The same images: about `wanted` of them in groups of an image and its look-alikes, then the others."""
        assert self.neighbours is not None
        near = self.neighbours.tolist()
        used = bytearray(b"\1" * self.images)
        for image in order:
            used[image] = False
        grouped: list[int] = []
        for image in order:
            if len(grouped) >= wanted:
                break
            if used[image]:
                continue
            free = [other for other in near[image] if not used[other]]
            group = [image, *free[: self.recipe.lookalike_group - 1]]
            for member in group:
                used[member] = True
            grouped += group
        return torch.tensor(grouped + [image for image in order if not used[image]])


def nearest(features: FeatureRows | Tensor, count: int) -> Tensor:
    """(N, D) features to (N, count) int64: every row's nearest others by cosine, exactly, a tile of pairs at a time."""
    total = len(features)
    count = min(count, total - 1)
    found = []
    for a in range(0, total, BLOCK):
        rows = normalize(features[a : a + BLOCK], dim=1)
        values, indices = rows.new_empty(len(rows), 0), torch.empty(len(rows), 0, dtype=torch.int64, device=rows.device)
        for b in range(0, total, BLOCK):
            similarity = rows @ normalize(features[b : b + BLOCK], dim=1).T
            if a == b:
                similarity.fill_diagonal_(-torch.inf)
            best = similarity.topk(min(count, similarity.shape[1]), dim=1)
            values, indices = torch.cat([values, best.values], dim=1), torch.cat([indices, best.indices + b], dim=1)
            values, kept = values.topk(min(count, values.shape[1]), dim=1)
            indices = indices.gather(1, kept)
        found.append(indices.cpu())
    return torch.cat(found)
