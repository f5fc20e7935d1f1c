/* What NVIDIA's monitoring library (NVML) tells about a device: read when the driver brings it,
 * absent without a word otherwise. Internal to kernels/cuda. */
#ifndef KERNELS_CUDA_NVML_H
#define KERNELS_CUDA_NVML_H

#include <stdbool.h>
#include <stdint.h>

struct nvml_reading {
    int32_t temperature_c, power_w, busy_percent; /* -1 = unknown */
    int64_t used_bytes;                           /* by all processes; -1 = unknown */
};

/* pci: the device's address, "0000:19:00.0". False = no library, or it does not know the device.
 * The environment's DOGEAR_NVML names another library. */
bool nvml_read(const char *pci, struct nvml_reading *ret);

#endif
