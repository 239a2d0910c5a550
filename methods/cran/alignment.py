"""Training of one or several levels of CRAN, Section 3.2 of the paper; rows with equal options share the fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cran_bench import ALPHABET, BadInput, Levels, MultiLevel, Part, Run, Split, say
from cran_bench.toolbox.linalg import covariance_bytes
from cran_bench.toolbox.losses import Negatives, margin_loss
from cran_bench.toolbox.processes import current
from cran_bench.toolbox.training import Training, linear_decay, step_decay

from .batches import POOL, Batches, nearest
from .correlation import WORDS, Correlation
from .model import BLOCK, KERNEL, LENGTH, Network, Scaling, ViewRows, in_blocks, lengths, only
from .pretraining import PretrainedEncoder, seed_of
from .recipe import LEVELS, Recipe

NEGATIVES = 1 << 40  # added to the seed of an epoch's batches for its random negatives
RESTARTS = 1000  # seeds set apart for the restarts of one run
BATCH = 512  # texts or images embedded at a time
TEXT_BYTES = 2000  # memory for a text's characters, words and counts, with copies


@dataclass
class Alignment(Recipe):
    """Levels that are trained together: one, or several with `joint`.

    Several processes share every batch: each encodes a part of the pairs, and the loss is over all embeddings.

    Attributes:
        levels: names of the levels: global, local, relation.
        member: which of several equal ones in an ensemble, which differ in their random numbers.
    """

    by_all_processes: ClassVar[bool] = True

    levels: tuple[str, ...] = LEVELS
    member: int = 0

    def __post_init__(self) -> None:
        self.restart: int | None = None  # the one that is being tried
        if self.plus.text_init == "pretrained":
            text_init: Any = "word-positions" if "relation" in self.levels else "cca-targets"
            self.plus = replace(self.plus, text_init=text_init)

    @property
    def part_name(self) -> str:
        """The name of its curve: the levels, and the restart while one is tried."""
        name = "+".join(self.levels) + f", member {self.member}" * bool(self.member)
        return name if self.restart is None else f"{name}, restart {self.restart}"

    @property
    def draw(self) -> int:
        """Number of its stream of random numbers: every level and every member of an ensemble has one of its own."""
        return LEVELS.index(self.levels[0]) + len(LEVELS) * self.member

    @property
    def similarity(self) -> MultiLevel:
        """The terms of Eq. 11 for these levels."""
        return MultiLevel(top=self.loss.top)

    def memory(self, train: Split) -> int:
        """Bytes of features, covariances, characters, outputs of frozen encoders, and weights with their gradients."""
        images, texts, sizes = len(train), len(train.texts), self.encoder.sizes
        has_regions = self.levels != ("global",) and train.has_regions
        features = train.image_rows.held + (train.region_rows.held if has_regions else 0)
        region_dim = train.region_shape[1] if has_regions else 0
        widest = max(train.image_dim, region_dim)
        words = {"cca": WORDS, "whiten": 1}.get(self.plus.image_scaling)
        scaling = 24 * BLOCK * widest if words is None else covariance_bytes(widest, words)
        read = 4 * texts * sizes.lstm * len(self.levels) if self.plus.frozen else 0
        layers = KERNEL * sum(a * b for a, b in pairwise((len(ALPHABET), *sizes.kernels)))
        layers += 4 * sizes.lstm * (sizes.kernels[-1] + sizes.lstm) + sizes.lstm * (self.encoder.attn_dim + sizes.dim)
        layers += 2 * sizes.dim * widest
        batch = 16 * LENGTH * sum(sizes.kernels) * (self.batches.batch_size * max(1, texts // max(1, images)))
        neighbours = 48 * images * POOL * self.plus.hard_negative_group if self._has_hard_negatives else 0
        return features + scaling + TEXT_BYTES * texts + read + neighbours + len(self.levels) * (32 * layers + batch)

    def parts(self) -> Sequence[Part]:
        """The CCA that chooses the ridge, and the pretrained text encoder."""
        plus = self.plus
        correlation = [Correlation(plus.ridge, plus.scaled_dim)] if self._chooses_ridge else []
        return [*correlation, *([self._pretrained()] if plus.text_init != "random" else [])]

    def _pretrained(self) -> PretrainedEncoder:
        return PretrainedEncoder(**self.of_encoder(), draw=self.draw)

    @property
    def _chooses_ridge(self) -> bool:
        return self.plus.image_scaling in ("whiten", "cca") and len(self.plus.ridge) > 1

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Minimise the sum of the levels' losses; pretrained text encoders are frozen in the first epochs.

        Keeps the epoch with the best rsum on validation.
        """
        processes, seed = current(), seed_of(run, self.draw)
        torch.manual_seed(seed)
        views, chars = self.views(train), train.chars(LENGTH)
        warn_of_unread(train, chars)
        plus, options, frozen = self.plus, self.optimiser, self.plus.frozen
        ridge, pretrained = plus.ridge[0], None
        if self._chooses_ridge:
            ridge = run.part(Correlation(plus.ridge, plus.scaled_dim)).best
        if plus.text_init != "random":
            pretrained = run.part(self._pretrained()).network
        neighbours = None
        if self._has_hard_negatives:
            neighbours = processes.lead(lambda: nearest(train.image_rows, POOL * plus.hard_negative_group))
        batches = Batches(self, train.image_of.cpu(), lengths(chars).cpu(), neighbours)
        scoring = MultiLevel(top=self.loss.k_train)
        draws = torch.Generator()
        negatives: Negatives = self.loss.negatives
        known: dict[str, Tensor] = {}  # outputs of frozen encoders for the training texts
        unseen: dict[str, Tensor] = {}  # and for the validation texts
        scalings: dict[str, Scaling] = {}
        encode: nn.Module = nn.Identity()

        def build() -> None:
            nonlocal encode
            if self.restart is not None:
                torch.manual_seed(RESTARTS * (seed + 1) + self.restart)
            self._build(views.globals.shape[1], 0 if views.regions is None else views.regions.shape[2], run.device)
            encode = self.network
            if not scalings:
                words = train.tfidf(WORDS) if plus.image_scaling == "cca" else None
                # the others get it with the weights
                processes.lead(lambda: self.network.fit_scaling(views, words, train.image_of, ridge))
                scalings.update({name: level.scaling for name, level in self.network.levels.items()})
            for name, level in self.network.levels.items():
                level.scaling = scalings[name]
                if pretrained is not None:
                    level.start_from(pretrained)

        def epoch(number: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
            nonlocal negatives, scoring, encode
            draws.manual_seed(generator.initial_seed() + NEGATIVES)
            warming_up = number <= self.loss.warm_up
            negatives = "all" if self.loss.negatives == "hardest" and warming_up else self.loss.negatives
            scoring = MultiLevel(top=self.loss.top if warming_up else self.loss.k_train)
            if number > frozen:
                known.clear()
            elif not known:
                known.update(self._read(chars))
            if encode is self.network or number == frozen + 1:
                encode = processes.parallel(self.network, some_unused=number <= frozen)
            return batches.epoch(number, generator)

        def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
            longest = int(batches.lengths[batch[1]].max())
            owner, texts = (x.to(run.device) for x in batch)
            sharing = processes.among(len(owner))
            mine = sharing.mine(len(owner))
            self.network.share(sharing)
            read = {name: x[texts[mine]] for name, x in known.items()}
            images, captions = (
                embedded.map(lambda x: sharing.gather(x, len(owner)))
                for embedded in encode(views.take(owner[mine]), read or chars[texts[mine], :longest])
            )
            total = torch.zeros((), device=run.device)
            for level in self.levels:
                scores = scoring.scores_as_given(only(images, level), only(captions, level))
                both = self.loss.bidirectional or level == "global"  # Eqs. 7 and 8 for the global level
                total = total + margin_loss(scores, owner, self.loss.margin, negatives, both, draws)
            return total

        def validate() -> dict[str, float]:
            if known and not unseen:
                unseen.update(self._read(val.chars(LENGTH)))
            texts = self.network.texts(unseen) if known else self.embed_texts(val)
            metrics = run.score(self.embed_images(val), texts)
            return {"i2t_r1": metrics.i2t_r1, "t2i_r1": metrics.t2i_r1, **metrics.curve}

        settled = max(  # the first epoch in which nothing about training changes any more
            plus.hard_negatives_from if neighbours is not None else 1,
            self.loss.warm_up + 1 if self.loss.changes else 1,
            frozen + 1,
        )

        def train_for(epochs: int, is_trial: bool = False) -> float:
            return Training(
                module=self.network,
                optimizer=self._optimizer(),
                steps=batches.steps,
                batches=epoch,
                loss=loss,
                validate=validate,
                epochs=epochs,
                patience=options.patience,
                rate=step_decay(options.halve_every) if options.lr_decay == "step" else linear_decay(epochs),
                clip=options.clip,
                patience_from=settled,
                seed=seed,
                is_trial=is_trial,
            ).run(run)

        if frozen and plus.restarts > 1 and "relation" in self.levels:
            rsums = []
            for self.restart in range(plus.restarts):
                build()
                rsums.append(train_for(1, is_trial=True))
            self.restart = rsums.index(max(rsums))
            run.chose(restart=self.restart)
        build()
        self.restart = None
        train_for(options.max_epochs)
        self.network.eval()

    def _build(self, image_dim: int, region_dim: int, device: torch.device) -> None:
        self.dims = image_dim, region_dim
        self.network = Network(self, self.levels, image_dim, region_dim).to(device)

    def _optimizer(self) -> torch.optim.Optimizer:
        options = self.optimiser
        learned = [p for p in self.network.parameters() if p.requires_grad]
        if options.optimiser == "adam":
            return torch.optim.AdamW(learned, lr=options.lr, weight_decay=options.weight_decay, fused=True)
        return torch.optim.RMSprop(learned, lr=options.lr, alpha=0.99, eps=1e-8, weight_decay=options.weight_decay)

    @property
    def _has_hard_negatives(self) -> bool:
        return self.plus.hard_negative_batches > 0 and "relation" in self.levels

    def views(self, split: Split) -> ViewRows:
        """The image features that these levels use."""
        if self.levels == ("global",):
            return ViewRows(split.image_rows)
        return ViewRows(split.image_rows, split.region_rows, split.boxes, split.region_mask)

    def embed_images(self, split: Split) -> Levels:
        """Embeddings of N images on these levels."""
        views = self.views(split)
        rows = in_blocks(torch.arange(len(split), device=split.image_of.device), BATCH)
        return concatenated([self.network.images(views.take(block)) for block in rows])

    def embed_texts(self, split: Split) -> Levels:
        """Embeddings of T texts on these levels."""
        return self.network.texts(self._read(split.chars(LENGTH)))

    @torch.no_grad()
    def _read(self, chars: Tensor) -> dict[str, Tensor]:
        """The pooled steps (T, units) of every level for (T, 201) characters, texts of similar length together."""
        was_training = self.network.training
        self.network.eval()
        read: dict[str, Tensor] = {}
        long = lengths(chars).cpu()
        for rows in in_blocks(long.argsort(stable=True), BATCH):
            for name, block in self.network.read(chars[rows, : int(long[rows[-1]])]).items():
                whole = read.setdefault(name, block.new_empty(len(chars), block.shape[1]))
                whole[rows] = block
        self.network.train(was_training)
        return read

    def state(self) -> dict[str, Tensor]:
        """The weights, and the dimensions of the features that they take."""
        return {**self.network.state_dict(), "dims": torch.tensor(self.dims)}

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore the weights.

        Raises:
            BadInput: the weights have another width or other levels.
        """
        image_dim, region_dim = state["dims"].tolist()
        self._build(image_dim, region_dim, state["dims"].device)
        try:
            self.network.load_state_dict({key: value for key, value in state.items() if key != "dims"})
        except RuntimeError as error:
            raise BadInput(
                f"these weights are not those of levels {self.part_name} with width={self.encoder.width}: they have "
                "another width or other parts; fit again, or give the fields they were fitted with "
                f"({_first_of(error)})"
            ) from None
        self.network.eval()


def concatenated(blocks: list[Levels]) -> Levels:
    """Concatenate blocks of rows."""
    columns: list[list[Tensor]] = []
    for block in blocks:
        tensors: list[Tensor] = []
        block.map(lambda x, tensors=tensors: tensors.append(x) or x)  # type: ignore[misc]
        columns.append(tensors)
    whole = iter([torch.cat(column) for column in zip(*columns, strict=True)])
    return blocks[0].map(lambda _: next(whole))


def warn_of_unread(split: Split, chars: Tensor) -> None:
    """Report how many texts are truncated, and how many contain no character of CRAN's alphabet.

    Raises:
        BadInput: no text contains a character of the alphabet.
    """
    empty = (~(chars > 0).any(dim=1)).nonzero().flatten().tolist()
    what = f"{split.unit} of the {split.name} split"
    if len(empty) == len(chars):
        raise BadInput(
            f"none of the {len(chars)} {what} has a character that CRAN reads (Latin letters, digits, punctuation); "
            f"the first is '{split.texts[0][:60]}': give texts in that alphabet"
        )
    if empty:
        say(
            f"  {len(empty)} of {len(chars)} {what} have no character that CRAN reads, the first is "
            f"'{split.texts[empty[0]][:60]}'; they count as empty texts"
        )
    long = sum(len(text) > LENGTH for text in split.texts)
    if long:
        say(f"  {long} of {len(chars)} {what} have over {LENGTH} characters, of which CRAN reads the first")


def _first_of(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines()[1:] if line.strip()]
    return lines[0] if lines else str(error)
