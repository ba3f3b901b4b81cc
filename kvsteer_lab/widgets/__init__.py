"""The explorer: steer a model by hand in JupyterLab."""
