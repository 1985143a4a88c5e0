"""What exists in the cloud, and how a version moves through it."""
