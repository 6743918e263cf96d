"""Video + speech → video."""
