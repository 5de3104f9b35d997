"""What servesim predicts for a grid of deployments, and what a change of it moved."""
