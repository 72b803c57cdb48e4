#!/bin/sh
# Run peft-gpu-suite with these arguments, on a machine with the NVIDIA driver and NVRTC (a CUDA toolkit, or its Python wheels).
here=$(cd "$(dirname "$0")" && pwd)

# Kernels are compiled against the headers that come with NVRTC: those of $CUDA_PATH, else of a toolkit in its usual place.
if [ -z "$CUDA_PATH" ] && [ ! -e /usr/local/cuda/include/cuda_fp16.h ] && [ ! -e /opt/cuda/include/cuda_fp16.h ]; then
    wheels=$(python3 -c 'import nvidia; print("\n".join(nvidia.__path__))' 2>/dev/null)
    header=$(find $wheels -name cuda_fp16.h 2>/dev/null | head -n 1)
    library=$(find $wheels -name 'libnvrtc.so*' 2>/dev/null | head -n 1)
    if [ -n "$header" ] && [ -n "$library" ]; then
        CUDA_PATH=$(dirname "$(dirname "$header")")
        LD_LIBRARY_PATH=$(dirname "$library")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
        export CUDA_PATH LD_LIBRARY_PATH
    fi
fi

if [ -e "$here/libno-llvm.so" ]; then
    export LD_PRELOAD="$here/libno-llvm.so${LD_PRELOAD:+:$LD_PRELOAD}"
fi
exec "$here/peft-gpu-suite" "$@"
