"""What training, skipping and fitting cost."""
