"""What BentoML needs of us and we of it; README.md says why each part is there."""
