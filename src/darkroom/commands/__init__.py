"""The commands of `darkroom`, one module per group; each imports what is heavy inside the command that needs it."""
