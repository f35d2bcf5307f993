"""Where training starts: what the student's network knows, fitted to the teacher."""
