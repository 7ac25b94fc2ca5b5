"""Box and geometry arithmetic. It imports nothing of ours."""
