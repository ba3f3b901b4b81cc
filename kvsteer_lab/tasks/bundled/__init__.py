"""The bundled models' own tasks: their questions and replies."""
