"""The PyTorch references themselves compute what the original modules computed (golden tensors)."""

import numpy as np
import pytest
import torch

from tests.golden import test_golden_policy, test_golden_stdit3
from tests.golden.loader import golden_files
from wmpo_jax.conversion import reference_models, reference_stdit


@pytest.mark.parametrize("path", golden_files("stdit3"), ids=lambda path: path.stem)
def test_golden_stdit_reference(path):
    golden = test_golden_stdit3.read_golden(path)
    weights = {name: torch.from_numpy(x) for name, x in golden.weights.items()}
    tensors = {name: torch.from_numpy(x) for name, x in golden.tensors.items()}
    for size, mask in test_golden_stdit3.runs(golden):
        out = reference_stdit.forward(
            weights,
            golden.model.config,
            tensors[f"in.{size}.x"],
            tensors["in.timestep"],
            tensors["in.action"],
            tensors[f"in.mask.{mask}"],
            float(tensors["in.height"]),
            float(tensors["in.width"]),
        )
        test_golden_stdit3.assert_close(out.numpy(), golden.tensors[f"out.{size}.{mask}"])


@pytest.mark.parametrize("path", golden_files("policy"), ids=lambda path: path.stem)
def test_golden_policy_reference(path):
    """Each prompt alone: the reference takes no padding."""
    golden = test_golden_policy.Golden(path)
    weights = {name: torch.from_numpy(x) for name, x in golden.state_dict.items()}
    prompts, lengths = (np.asarray(x) for x in golden.prompts("in"))
    for i, length in enumerate(lengths):
        logits = reference_models.policy_logits(
            weights,
            golden.config,
            torch.from_numpy(golden["in.pixel_values"][i : i + 1]),
            torch.from_numpy(prompts[i : i + 1, :length].astype(np.int64)),
        )
        expected = golden["out.train_forward.logits_last256"][i]
        np.testing.assert_allclose(logits[0], expected, atol=1e-3)
