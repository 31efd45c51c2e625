import json

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from mvae_jax.eval import cross_modal


def test_by_hand():
    logits = [[2.0, -1.0], [-3.0, -2.0], [1.0, 4.0], [0.5, -0.5]]
    attributes = [[1, 0], [1, 0], [0, 1], [1, 0]]
    scores = cross_modal.score_attributes(logits, attributes, ("smiling", "bald"))
    assert scores.count == 4
    assert scores.accuracy == 6 / 8
    assert scores.majority_accuracy == 6 / 8
    assert scores.exact_match == 2 / 4
    assert scores.majority_exact_match == 3 / 4
    smiling, bald = scores.attributes
    assert (smiling.name, smiling.prevalence, smiling.accuracy, smiling.majority_accuracy) == (
        "smiling",
        0.75,
        0.5,
        0.75,
    )
    assert smiling.balanced_accuracy == pytest.approx((2 / 3 + 0) / 2)
    assert smiling.auroc == pytest.approx(1 / 3)
    assert (bald.accuracy, bald.balanced_accuracy, bald.auroc) == (1.0, 1.0, 1.0)


def test_equals_scikit_learn():
    rng = np.random.default_rng(0)
    attributes = (rng.random((200, 3)) < (0.1, 0.5, 0.8)).astype(np.float32)
    logits = np.round(attributes + rng.normal(size=attributes.shape) - 0.5, 1)  # rounded: ties
    scores = cross_modal.score_attributes(logits, attributes, "abc")
    for column, score in enumerate(scores.attributes):
        truth, predicted = attributes[:, column], logits[:, column] > 0
        assert score.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, predicted))
        assert score.auroc == pytest.approx(roc_auc_score(truth, logits[:, column]))


def test_one_class_has_no_balanced_accuracy():
    scores = cross_modal.score_attributes([[1.0], [-1.0]], [[0], [0]], ["bald"])
    assert (scores.attributes[0].balanced_accuracy, scores.attributes[0].auroc) == (None, None)
    assert json.loads(json.dumps(scores.to_dict()))["attributes"][0]["auroc"] is None


@pytest.mark.parametrize(
    ("logits", "attributes", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 2)), r"logits have shape \(2, 3\) and attributes \(2, 2\)"),
        (np.zeros((2, 3)), np.zeros((2, 3)), r"expected both \[N, 2\]"),
        (np.zeros((0, 2)), np.zeros((0, 2)), "at least one row"),
        (np.full((2, 2), np.nan), np.zeros((2, 2)), "4 of 4 logits are not a number"),
    ],
)
def test_wrong_input_is_refused(logits, attributes, message):
    with pytest.raises(ValueError, match=message):
        cross_modal.score_attributes(logits, attributes, ("a", "b"))
