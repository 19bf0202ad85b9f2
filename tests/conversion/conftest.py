"""The matrices here are small: more torch threads would only wait for each other."""

import torch

torch.set_num_threads(1)
