"""What a student starts from: its network before training, and a closed-form layer."""
