"""From prompts and interventions to texts and scores, all through one path."""
