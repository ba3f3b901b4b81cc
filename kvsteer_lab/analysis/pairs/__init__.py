"""What contrastive pairs look like before anything is steered."""
