"""Images: where they come from, which role each plays, how they reach the models."""
