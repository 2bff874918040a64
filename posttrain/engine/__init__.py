"""What runs methods: stages, objectives, the training loop, the store."""
