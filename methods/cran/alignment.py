"""One or several levels of CRAN, trained together and stored as a part, so that rows which name the same share it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from cran_bench import Levels, MultiLevel, Run, Split
from cran_bench.contract import Part
from cran_bench.errors import BadInput
from cran_bench.frontend.characters import ALPHABET
from cran_bench.linalg import covariance_bytes
from cran_bench.losses import margin_loss
from cran_bench.processes import current
from cran_bench.progress import say
from cran_bench.training import Training, halved, linear

from .batches import POOL, Batches, nearest
from .correlation import WORDS, Correlation
from .model import BLOCK, KERNEL, LENGTH, Network, ViewRows, in_blocks, only
from .reading import Reading
from .recipe import LEVELS, Recipe

NEGATIVES = 1 << 40  # what sets the random negatives of an epoch apart from its batches
BEGINNINGS = 1000  # what sets the random beginnings of one seed apart from those of the next
BATCH = 512  # texts or images embedded at a time
TEXT_BYTES = 2000  # of a text's characters, words and counts, with copies


@dataclass
class Alignment(Recipe):
    """Levels that are trained together: one, or several with `joint`.

    Several processes share every batch: each encodes some of its pairs, and the loss is that of all embeddings.

    Attributes:
        levels: of global, local and relation.
        beginning: number of the random beginning, or none for that of the run's seed.
    """

    by_all_processes: ClassVar[bool] = True

    levels: tuple[str, ...] = LEVELS
    beginning: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start == "taught":
            self.start = "words" if "relation" in self.levels else "places"

    @property
    def part_name(self) -> str:
        """See `cran_bench.fits.part_name`."""
        name = "+".join(self.levels)
        return name if self.beginning is None else f"{name}, beginning {self.beginning}"

    @property
    def similarity(self) -> MultiLevel:
        """The levels' share of Eq. 11."""
        return MultiLevel(top=self.top)

    def memory(self, train: Split) -> int:
        """Features that are held; covariances; characters; what encoders read; weights with what training keeps."""
        images, texts, sizes = len(train), len(train.texts), self.sizes
        has_regions = self.levels != ("global",) and train.has_regions
        features = train.image_rows.held + (train.region_rows.held if has_regions else 0)
        region_dim = train.region_shape[1] if has_regions else 0
        widest = max(train.image_dim, region_dim)
        words = {"cca": WORDS, "whiten": 1}.get(self.image_scaling)
        scaling = 24 * BLOCK * widest if words is None else covariance_bytes(widest, words)
        read = 4 * texts * sizes.lstm * len(self.levels) if self.heads_first and self.start != "scratch" else 0
        layers = KERNEL * sum(a * b for a, b in pairwise((len(ALPHABET), *sizes.kernels)))
        layers += 4 * sizes.lstm * (sizes.kernels[-1] + sizes.lstm) + sizes.lstm * (self.attn_dim + sizes.dim)
        layers += 2 * sizes.dim * widest
        batch = 16 * LENGTH * sum(sizes.kernels) * (self.batch_size * max(1, texts // max(1, images)))
        alike = 48 * images * POOL * self.lookalike_group if self.lookalikes and "relation" in self.levels else 0
        return features + scaling + TEXT_BYTES * texts + read + alike + len(self.levels) * (32 * layers + batch)

    def parts(self) -> Sequence[Part]:
        """Where CCA chooses the ridge, and what the text encoders begin with; beginnings are of this class."""
        correlation = [Correlation(self.ridge, self.scaled_dim)] if self._chooses_ridge else []
        return [*correlation, *([Reading(**self.of_encoder())] if self.start != "scratch" else [])]

    @property
    def _chooses_ridge(self) -> bool:
        return self.image_scaling in ("whiten", "cca") and len(self.ridge) > 1

    def fit(self, train: Split, val: Split, run: Run) -> None:
        """Minimise the sum of the levels' losses, at first with the text encoders held where they know words already.

        Keeps the epoch with the best rsum on validation.
        """
        processes = current()
        views, chars = self.views(train), train.chars(LENGTH)
        warn_of_unread(train, chars)
        held = self.heads_first if self.start != "scratch" else 0
        tries = held and self.beginnings > 1 and "relation" in self.levels
        beginning = self._best_beginning(val, run) if tries else self.beginning
        if beginning is not None:
            torch.manual_seed(BEGINNINGS * (run.seed + 1) + beginning)
        region_dim = 0 if views.regions is None else views.regions.shape[2]
        self._build(views.globals.shape[1], region_dim, run.device)
        ridge = self.ridge[0]
        if self._chooses_ridge:
            ridge = run.part(Correlation(self.ridge, self.scaled_dim)).best

        def scale() -> None:
            words = train.tfidf(WORDS) if self.image_scaling == "cca" else None
            self.network.fit_scaling(views, words, train.image_of, ridge)

        processes.lead(scale)  # the others get it with the weights
        if self.start != "scratch":
            encoder = run.part(Reading(**self.of_encoder())).encoder
            for level in self.network.levels.values():
                level.start_from(encoder)
        alike = processes.lead(lambda: self._lookalikes(train))
        batches = Batches(self, train.image_of, (chars > 0).sum(dim=1).cpu(), alike)
        scoring = MultiLevel(top=self.k_train)
        draws, negatives = torch.Generator(), str(self.negatives)
        known: dict[str, Tensor] = {}  # what the encoders read in the training texts, while they are held
        encode: nn.Module = self.network

        def epoch(number: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
            nonlocal negatives, scoring, encode
            draws.manual_seed(generator.initial_seed() + NEGATIVES)
            warming_up = number <= self.warm_up
            negatives = "all" if self.negatives == "hardest" and warming_up else self.negatives
            scoring = MultiLevel(top=self.top if warming_up else self.k_train)
            if number > held and (known or encode is self.network):
                known.clear()
                encode = processes.parallel(self.network, some_unused=False)
            elif not known and number <= held:
                known.update(self._read(chars))
                encode = processes.parallel(self.network, some_unused=True)
            return batches.epoch(number, generator)

        def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
            owner, texts = batch
            sharing = processes.among(len(owner))
            mine = sharing.mine(len(owner))
            self.network.share(sharing)
            read = {name: x[texts[mine]] for name, x in known.items()}
            images, captions = (
                embedded.map(lambda x: sharing.gather(x, len(owner)))
                for embedded in encode(views.take(owner[mine]), read or chars[texts], mine)
            )
            total = torch.zeros((), device=run.device)
            for level in self.levels:
                scores = scoring.scores_as_given(only(images, level), only(captions, level))
                both = self.bidirectional or level == "global"  # Eqs. 7 and 8 for the global level
                total = total + margin_loss(scores, owner, self.margin, negatives, both, draws)
            return total

        def validate() -> dict[str, float]:
            found = run.score(self.embed_images(val), self.embed_texts(val))
            return {"i2t_r1": found.i2t_r1, "t2i_r1": found.t2i_r1, "rsum": found.rsum}

        Training(
            module=self.network,
            optimizer=self._optimizer(),
            steps=batches.steps,
            batches=epoch,
            loss=loss,
            validate=validate,
            epochs=self.max_epochs,
            patience=self.patience,
            rate=halved(self.halve_every) if self.decay == "halved" else linear(self.max_epochs),
            clip=self.clip,
            patience_from=max(self.lookalikes_from if alike is not None else 1, self._warm_up + 1, held + 1),
        ).run(run)
        self.network.eval()

    def _best_beginning(self, val: Split, run: Run) -> int:
        """Of several random beginnings, that with the best rsum on validation after an epoch of the layers alone."""

        def rsum(beginning: int) -> float:
            trial = run.part(replace(self, beginning=beginning, beginnings=1, heads_first=1, max_epochs=1))
            with torch.inference_mode():
                return current().lead(lambda: run.score(trial.embed_images(val), trial.embed_texts(val)).rsum)

        best = max(range(self.beginnings), key=rsum)
        run.chose(beginning=best)
        return best

    def _build(self, image_dim: int, region_dim: int, device: torch.device) -> None:
        self.dims = image_dim, region_dim
        self.network = Network(self, self.levels, image_dim, region_dim).to(device)

    @property
    def _warm_up(self) -> int:
        """Epochs before training changes its ways; 0 where it does not."""
        return self.warm_up if self.negatives == "hardest" or self.k_train != self.top else 0

    def _optimizer(self) -> torch.optim.Optimizer:
        learned = [p for p in self.network.parameters() if p.requires_grad]
        if self.optimizer == "adam":
            return torch.optim.AdamW(learned, lr=self.lr, weight_decay=self.weight_decay, fused=True)
        return torch.optim.RMSprop(learned, lr=self.lr, alpha=0.99, eps=1e-8, weight_decay=self.weight_decay)

    def _lookalikes(self, train: Split) -> Tensor | None:
        if not self.lookalikes or "relation" not in self.levels:
            return None
        return nearest(train.image_rows, POOL * self.lookalike_group)

    def views(self, split: Split) -> ViewRows:
        """The image features that these levels read."""
        if self.levels == ("global",):
            return ViewRows(split.image_rows)
        return ViewRows(split.image_rows, split.region_rows, split.boxes, split.region_mask)

    def embed_images(self, split: Split) -> Levels:
        """N images on these levels."""
        views = self.views(split)
        rows = in_blocks(torch.arange(len(split), device=split.image_of.device), BATCH)
        return concatenated([self.network.images(views.take(block)) for block in rows])

    def embed_texts(self, split: Split) -> Levels:
        """T texts on these levels, those of a length together."""
        return self.network.texts(self._read(split.chars(LENGTH)))

    @torch.no_grad()
    def _read(self, chars: Tensor) -> dict[str, Tensor]:
        """(T, 201) characters to what every level reads in evaluation, (T, units), those of a length together."""
        was_training = self.network.training
        self.network.eval()
        read: dict[str, Tensor] = {}
        for rows in in_blocks((chars > 0).sum(dim=1).argsort(stable=True), BATCH):
            for name, block in self.network.read(chars[rows]).items():
                whole = read.setdefault(name, block.new_empty(len(chars), block.shape[1]))
                whole[rows] = block
        self.network.train(was_training)
        return read

    def state(self) -> dict[str, Tensor]:
        """Weights, and the dimensions of the features they are for."""
        return {**self.network.state_dict(), "dims": torch.tensor(self.dims)}

    def load(self, state: dict[str, Tensor]) -> None:
        """See `state`.

        Raises:
            BadInput: the weights are of another width or of other levels.
        """
        image_dim, region_dim = state["dims"].tolist()
        self._build(image_dim, region_dim, state["dims"].device)
        try:
            self.network.load_state_dict({key: value for key, value in state.items() if key != "dims"})
        except RuntimeError as error:
            raise BadInput(
                f"these weights are not those of levels {self.part_name} with width={self.width}: they are of another "
                f"width or have other parts; fit again, or give the fields they were fitted with ({_first_of(error)})"
            ) from None
        self.network.eval()


def concatenated(blocks: list[Levels]) -> Levels:
    """Blocks of rows as one."""
    columns: list[list[Tensor]] = []
    for block in blocks:
        tensors: list[Tensor] = []
        block.map(lambda x, tensors=tensors: tensors.append(x) or x)  # type: ignore[misc]
        columns.append(tensors)
    whole = iter([torch.cat(column) for column in zip(*columns, strict=True)])
    return blocks[0].map(lambda _: next(whole))


def warn_of_unread(split: Split, chars: Tensor) -> None:
    """Say how many texts are read in part only, or not at all.

    Raises:
        BadInput: none has a character that CRAN reads.
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
