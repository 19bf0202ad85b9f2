"""The networks in their roles: policy, autoencoder, world model, reward model.

Each role has one class that holds network, transforms, loss and what the role does (sample,
predict, score), and one constructor, which takes sizes and hyperparameters, never a run's config.
"""
