"""One name per operation; here alone a CPU, a GPU, a graph or numba make a difference."""
