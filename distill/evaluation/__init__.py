"""Evaluation: how much of the teacher is kept, and what the embeddings are good for.

The figures' types are in `isogon.bundle.evaluation`, which loads without torch.
"""
