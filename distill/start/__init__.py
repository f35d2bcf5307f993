"""The closed-form start of training: an embedding layer fitted to the teacher."""
