import numpy as np

from tasks.config import parse_config
from tasks.finetune.data import Split
from tasks.finetune.head import train_head, weights_digest
from tasks.finetune.rehearsal import rehearse


def test_a_rehearsal_changes_nothing_in_what_is_trained_after_it():
    config = parse_config({"finetune": {"epochs": 2, "hidden_units": 8}}).finetune
    rows = Split(features=np.random.default_rng(1).random((40, 12)).astype(np.float16), targets=np.arange(40) % 3)
    before = weights_digest(train_head(rows, rows, 3, config).model)
    rehearse(config)
    assert weights_digest(train_head(rows, rows, 3, config).model) == before
