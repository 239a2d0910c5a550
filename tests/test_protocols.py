import numpy as np
import pytest
import torch

from cran_bench.embeddings import Levels
from cran_bench.errors import BadInput
from cran_bench.protocols import MEANING, PROTOCOLS, fold_rows, parse_protocols, unit_of
from cran_bench.ranking.evaluation import as_queries, metrics_of
from cran_bench.ranking.rank import rank
from cran_bench.similarity import COSINE, DOT, MultiLevel

IMAGE_OF = torch.tensor([0, 1, 1, 1, 2, 2])


@pytest.fixture
def texts():
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("protocol", ["captions", "documents"])
def test_captions_and_documents_are_taken_as_they_are(protocol, texts):
    queries, owner = as_queries(protocol, texts, IMAGE_OF, 3, COSINE)
    assert queries is texts
    assert owner is IMAGE_OF


def test_single_takes_the_first_caption(texts):
    queries, owner = as_queries("single", texts, IMAGE_OF, 3, COSINE)
    assert torch.equal(queries, texts[[0, 1, 4]])
    assert owner.tolist() == [0, 1, 2]
    levels, _ = as_queries("single", Levels(texts, texts + 1), IMAGE_OF, 3, MultiLevel())
    assert torch.equal(levels.regions, texts[[0, 1, 4]] + 1)


@pytest.mark.parametrize("similarity", [COSINE, DOT, MultiLevel()])
def test_mean_averages_the_captions(texts, similarity):
    queries, owner = as_queries("mean", texts, IMAGE_OF, 3, similarity)
    vectors = torch.nn.functional.normalize(texts) if similarity.cosine else texts
    torch.testing.assert_close(queries, torch.stack([vectors[0], vectors[1:4].mean(0), vectors[4:].mean(0)]))
    assert owner.tolist() == [0, 1, 2]


def test_the_four_protocols_by_hand():
    """Two images on the axes; the scores of a caption are its two coordinates."""
    images = torch.eye(2)
    texts = torch.tensor([[1.0, 4.0], [6.0, 0.0], [3.0, 2.0], [0.0, 5.0]])
    image_of = torch.tensor([0, 0, 1, 1])

    def recalls(protocol, texts=texts, image_of=image_of):
        queries, owner = as_queries(protocol, texts, image_of, 2, DOT)
        metrics = rank(images, queries, owner, DOT).metrics()
        return metrics.i2t_r1, metrics.t2i_r1

    # image 0 finds (6, 0), image 1 finds (0, 5); captions 0 and 2 prefer the other image
    assert recalls("captions") == (100, 50)
    # the first captions are (1, 4) and (3, 2): everything is the wrong way round
    assert recalls("single") == (0, 0)
    # the means are (3.5, 2) and (1.5, 3.5)
    assert recalls("mean") == (100, 100)
    # documents bring embeddings of their own
    assert recalls("documents", torch.tensor([[1.0, 0.0], [2.0, 1.0]]), torch.arange(2)) == (50, 50)


def test_parse_protocols():
    assert parse_protocols("captions") == ("captions",)
    assert parse_protocols("mean, captions,mean") == ("mean", "captions")
    assert parse_protocols("all") == PROTOCOLS == ("captions", "documents", "mean", "single")
    assert set(MEANING) == set(PROTOCOLS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("caption", "no protocol 'caption'; did you mean 'captions'"),
        ("zzz", "known: captions, documents, mean, single"),
        ("captions,", "no protocol ''"),
        ("", "no protocol ''"),
    ],
)
def test_unknown_protocols_are_refused(text, message):
    with pytest.raises(BadInput, match=message):
        parse_protocols(text)


def test_units():
    assert [unit_of(protocol) for protocol in PROTOCOLS] == ["captions", "documents", "captions", "captions"]


# folds ------------------------------------------------------------------------------------------------------------


def test_fold_rows():
    assert [rows.tolist() for rows in fold_rows(7, 3)] == [[0, 1], [2, 3], [4, 5]]
    assert [rows.tolist() for rows in fold_rows(2, 2)] == [[0], [1]]


@pytest.mark.parametrize("folds", [0, -1, 4])
def test_more_folds_than_images_are_refused(folds):
    with pytest.raises(BadInput, match=f"{folds} folds need at least .* there are 3"):
        fold_rows(3, folds)


@pytest.mark.parametrize("levels", [False, True])
def test_folds_are_ranked_apart_and_averaged(levels):
    random = torch.Generator().manual_seed(0)
    captions = torch.randint(1, 5, (23,), generator=random)
    image_of = torch.repeat_interleave(torch.arange(23), captions)
    images = torch.randn(23, 6, generator=random)
    texts = images[image_of] + 1.5 * torch.randn(len(image_of), 6, generator=random)
    similarity = DOT
    given_images, given_texts = images, texts
    if levels:  # one level among three that add nothing gives the same ranks
        given_images, similarity = Levels(images, 0 * images[:, None]), MultiLevel()
        given_texts = Levels(texts, texts)
    ranks = rank(given_images, given_texts, image_of, similarity, folds=5)
    metrics = metrics_of(ranks, 5)

    size, parts = 4, []
    for fold in range(5):
        inside = [t for t in range(len(image_of)) if fold * size <= int(image_of[t]) < (fold + 1) * size]
        parts.append(rank(images[fold * size : (fold + 1) * size], texts[inside], image_of[inside] - fold * size, DOT))
    for name, value in metrics.values().items():
        assert value == pytest.approx(np.mean([part.metrics().values()[name] for part in parts])), name
    assert ranks.i2t.better.tolist() == [b for part in parts for b in part.i2t.better.tolist()]
    assert ranks.t2i.better.tolist() == [b for part in parts for b in part.t2i.better.tolist()]
    assert ranks.image_of.tolist() == image_of[image_of < 20].tolist()
    assert len(ranks.i2t.better) == 20


def test_no_folds_are_the_whole():
    images = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    ranks = rank(images, images, torch.arange(9), COSINE)
    metrics = metrics_of(ranks, 0)
    assert metrics.rsum == 600
    assert ranks.metrics() == metrics
