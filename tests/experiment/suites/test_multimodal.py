"""What the multimodal VAE's experiment declares, without training it."""

import pytest
from command_lines import script

EXPERIMENT = script("celebahq_mvae").EXPERIMENT


@pytest.mark.parametrize(("preset", "penalised"), [("laptop", False), ("paper", True), ("reference", False)])
def test_the_papers_preset_alone_penalises_errors_of_texts(preset, penalised):
    model = EXPERIMENT.presets[preset].model
    assert (model.penalise_text_errors, model.text_error_factor, model.text_error_limit) == (penalised, 8.0, 0.15)
