"""The parts of the module: numpy and the standard library, and MRML in ``scene`` alone."""
