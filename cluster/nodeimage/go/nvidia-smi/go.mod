module kailab.dev/nvidia-smi

go 1.21
