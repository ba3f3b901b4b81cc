"""Interventions on a task's questions: planned, asked in chunks, stored, compared; coefficients tuned."""
