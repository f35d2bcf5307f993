"""Where training starts: the student's features, fitted to the teacher in closed form."""
