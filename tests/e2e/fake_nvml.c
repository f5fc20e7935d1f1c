/* Stands for NVIDIA's monitoring library: one device, 61 degrees, 75 W, 3 % busy. */
#include <string.h>

int nvmlInit_v2(void);
int nvmlShutdown(void);
int nvmlDeviceGetHandleByPciBusId_v2(const char *pci, void **device);
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius);
int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatt);
int nvmlDeviceGetUtilizationRates(void *device, unsigned ret[2]);
int nvmlDeviceGetMemoryInfo(void *device, unsigned long long ret[3]);

static int the_device;

int nvmlInit_v2(void)
{
    return 0;
}

int nvmlShutdown(void)
{
    return 0;
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *pci, void **device)
{
    *device = &the_device;
    return strcmp(pci, "0000:00:00.0") != 0;
}

int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius)
{
    *celsius = 61;
    return device != &the_device || sensor != 0;
}

int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatt)
{
    *milliwatt = 74600;
    return device != &the_device;
}

int nvmlDeviceGetUtilizationRates(void *device, unsigned ret[2])
{
    ret[0] = 3;
    ret[1] = 1;
    return device != &the_device;
}

int nvmlDeviceGetMemoryInfo(void *device, unsigned long long ret[3])
{
    ret[0] = 3000;
    ret[1] = 2000;
    ret[2] = 1000;
    return device != &the_device;
}
