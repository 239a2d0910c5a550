"""Building blocks of methods: closed forms, kernels, mixtures, RBMs, losses, and the training loop.

All modules of this package are public: `linalg`, `kernels`, `mixtures`, `rbm`, `losses`, `training`, `states`
and `processes`.
"""
