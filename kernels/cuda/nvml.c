#include "kernels/cuda/nvml.h"

#include <dlfcn.h>
#include <stdlib.h>

/* NVML's C interface, as its documentation gives it: 0 is success everywhere. */
struct utilisation {
    unsigned gpu, memory; /* percent */
};
struct memory {
    unsigned long long total, free, used;
};

struct api {
    int (*init)(void);
    int (*shutdown)(void);
    int (*by_address)(const char *pci, void **device);
    int (*temperature)(void *device, int sensor, unsigned *celsius);
    int (*power)(void *device, unsigned *milliwatt);
    int (*busy)(void *device, struct utilisation *ret);
    int (*memory)(void *device, struct memory *ret);
};

static void *library(void)
{
    const char *set = getenv("DOGEAR_NVML");
    return dlopen(set && *set ? set : "libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
}

static bool find(void *lib, struct api *ret)
{
    struct {
        void *to;
        const char *name;
    } want[] = {
        {&ret->init, "nvmlInit_v2"},
        {&ret->shutdown, "nvmlShutdown"},
        {&ret->by_address, "nvmlDeviceGetHandleByPciBusId_v2"},
        {&ret->temperature, "nvmlDeviceGetTemperature"},
        {&ret->power, "nvmlDeviceGetPowerUsage"},
        {&ret->busy, "nvmlDeviceGetUtilizationRates"},
        {&ret->memory, "nvmlDeviceGetMemoryInfo"},
    };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        void *at = dlsym(lib, want[i].name);
        if (!at)
            return false;
        *(void **)want[i].to = at;
    }
    return true;
}

bool nvml_read(const char *pci, struct nvml_reading *ret)
{
    void *lib = library(), *device;
    struct api api;
    unsigned celsius, milliwatt;
    struct utilisation busy;
    struct memory memory;
    bool known = false;
    if (lib && find(lib, &api) && api.init() == 0) {
        known = api.by_address(pci, &device) == 0;
        if (known) {
            *ret = (struct nvml_reading){-1, -1, -1, -1};
            if (api.temperature(device, 0, &celsius) == 0)
                ret->temperature_c = (int32_t)celsius;
            if (api.power(device, &milliwatt) == 0)
                ret->power_w = (int32_t)((milliwatt + 500) / 1000);
            if (api.busy(device, &busy) == 0)
                ret->busy_percent = (int32_t)busy.gpu;
            if (api.memory(device, &memory) == 0)
                ret->used_bytes = (int64_t)memory.used;
        }
        api.shutdown();
    }
    if (lib)
        dlclose(lib);
    return known;
}
