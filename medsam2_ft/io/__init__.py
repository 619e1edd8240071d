"""Volumes, label volumes and npz cases on disk."""
