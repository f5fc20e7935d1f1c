/* Finding the CUDA module: a shared library of ours that is there when the build found nvcc. The
 * program itself knows nothing of CUDA. */
#include "kernels/cuda/module.h"
#include "kernels/cuda/nvml.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MODULE_NAME "libdogear-cuda.so"
enum { PATH_BYTES = 4096 };

/* Loads MODULE_NAME from where the program lies, or as the build tree and an installation have it. */
static void *load_beside(void)
{
    static const char *const places[] = {"%s/" MODULE_NAME, "%s/../kernels/cuda/" MODULE_NAME,
                                         "%s/../lib/dogear/" MODULE_NAME};
    char dir[PATH_BYTES], path[PATH_BYTES + 64];
    ssize_t n = readlink("/proc/self/exe", dir, sizeof dir - 1);
    if (n > 0) {
        dir[n] = 0;
        char *slash = strrchr(dir, '/');
        if (slash)
            *slash = 0;
        for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
            snprintf(path, sizeof path, places[i], dir);
            void *lib = access(path, R_OK) == 0 ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
            if (lib)
                return lib;
        }
    }
    return dlopen(MODULE_NAME, RTLD_NOW | RTLD_LOCAL);
}

/* Stays loaded: the runtime in it does not like to go. */
static const struct cuda_module *module_get(const char *name, char *why, size_t why_bytes)
{
    const char *set = getenv("DOGEAR_CUDA");
    name = name ? name : set && *set ? set : NULL;
    void *lib = name ? dlopen(name, RTLD_NOW | RTLD_LOCAL) : load_beside();
    if (!lib) {
        const char *reason = dlerror();
        if (name)
            snprintf(why, why_bytes, "the CUDA module %s does not load: %s", name,
                     reason ? reason : "no reason given");
        else
            snprintf(why, why_bytes, "no CUDA device: this build has no CUDA module "
                                     "(" MODULE_NAME "); use --backend cpu");
        return NULL;
    }
    const struct cuda_module *m = dlsym(lib, CUDA_MODULE_SYMBOL);
    if (!m || m->abi != CUDA_MODULE_ABI) {
        snprintf(why, why_bytes,
                 "the CUDA module is of another build (%d, this program needs %d); build both anew",
                 m ? m->abi : 0, CUDA_MODULE_ABI);
        return NULL;
    }
    return m;
}

struct kern *kern_open_cuda(const char *module, int32_t device, int32_t n_thread, char *why,
                            size_t why_bytes)
{
    const struct cuda_module *m = module_get(module, why, why_bytes);
    struct kern *k = m ? m->open(device, why, why_bytes) : NULL;
    if (k && !(k->host = kern_open_cpu(NULL, n_thread))) {
        kern_close(k);
        snprintf(why, why_bytes, "no CPU backend beside the GPU: KERNELS names none that runs here, "
                                 "or memory is out");
        return NULL;
    }
    return k;
}

bool kern_cuda_state(char *line, size_t line_bytes)
{
    const struct cuda_module *m = module_get(NULL, line, line_bytes);
    struct cuda_device d;
    if (!m || m->n_device(line, line_bytes) < 1)
        return false;
    if (!m->describe(0, &d)) {
        snprintf(line, line_bytes, "device 0 does not answer");
        return false;
    }
    snprintf(line, line_bytes, "%s, %.1f of %.1f GiB free, compute capability %d.%d, CUDA %d.%d%s",
             d.name, (double)d.free_bytes / (1 << 30), (double)d.total_bytes / (1 << 30),
             d.capability / 10, d.capability % 10, d.runtime / 1000, d.runtime % 1000 / 10,
             d.gemm ? "" : ", no cuBLAS: prompts are read slowly");
    struct nvml_reading r;
    size_t n = strlen(line);
    if (nvml_read(d.pci, &r) && r.temperature_c >= 0 && r.power_w >= 0 && r.busy_percent >= 0)
        snprintf(line + n, line_bytes - n, ", %d °C, %d W, %d %% busy", r.temperature_c, r.power_w,
                 r.busy_percent);
    return true;
}
