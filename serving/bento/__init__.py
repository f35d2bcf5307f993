"""The adapter to BentoML; README.md says why each part is needed."""
