"""From npz cases to batches: slice store, sampler, augmentation, dataset, LightningDataModule.

This file imports nothing, so that the store's worker processes start without torch.
"""
