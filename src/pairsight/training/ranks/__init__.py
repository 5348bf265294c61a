"""Several processes, one a device, that train one policy together."""
