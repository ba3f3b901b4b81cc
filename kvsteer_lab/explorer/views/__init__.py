"""What the explorer shows: widgets and HTML, without any use of a model."""
