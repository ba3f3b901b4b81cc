"""What every package stands on: files, progress, batches, provenance, HTML."""
