"""moa: a compiler for attention written as array expressions, in the Mathematics of Arrays."""
