"""The command line `kvsteer`."""
