"""The CUDA backend: schedule for the GPU, printer to CUDA C++, NVRTC, one thin device interface, launches."""
