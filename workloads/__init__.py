"""Request arrivals: synthetic processes and readers of production traces."""
