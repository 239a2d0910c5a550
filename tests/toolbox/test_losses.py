import pytest
import torch

from cran_bench import BadInput
from cran_bench.toolbox.losses import margin_loss


def test_an_unknown_choice_of_negatives():
    with pytest.raises(BadInput, match="negatives are random, all or hardest, not 'hard'"):
        margin_loss(torch.eye(3), torch.arange(3), 0.2, "hard")  # type: ignore[arg-type]
