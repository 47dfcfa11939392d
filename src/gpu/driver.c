/* See driver.h. */
#include "gpu/driver.h"

#include "gpu/library.h"
#include "gpu/parts.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* CUdevice_attribute */
enum {
    ATTRIBUTE_MULTIPROCESSORS = 16,
    ATTRIBUTE_COMPUTE_MODE = 20,
    ATTRIBUTE_MEMORY_CLOCK_KHZ = 36,
    ATTRIBUTE_MEMORY_BUS_BITS = 37,
    ATTRIBUTE_CAPABILITY_MAJOR = 75,
    ATTRIBUTE_CAPABILITY_MINOR = 76,
    ATTRIBUTE_VIRTUAL_MEMORY = 102,
    ATTRIBUTE_FD_HANDLES = 103,
};

/* A symbol of the library into a pointer to a function. */
static int find(struct gpu_driver *d, void *ret_function, const char *name, struct error *err)
{
    void *symbol = dlsym(d->library, name);
    if (symbol == NULL)
        return error_set(err, -ENOTSUP,
                         "the NVIDIA driver lacks %s: install one for CUDA %d.%d or newer", name,
                         GPU_DRIVER_VERSION_MIN / 1000, GPU_DRIVER_VERSION_MIN % 1000 / 10);
    memcpy(ret_function, &symbol, sizeof symbol);
    return 0;
}

static int find_all(struct gpu_driver *d, struct error *err)
{
    const struct {
        void *function;
        const char *name;
    } wanted[] = {
        {&d->init, "cuInit"},
        {&d->error_string, "cuGetErrorString"},
        {&d->driver_version, "cuDriverGetVersion"},
        {&d->device_count, "cuDeviceGetCount"},
        {&d->device_get, "cuDeviceGet"},
        {&d->device_name, "cuDeviceGetName"},
        {&d->device_memory, "cuDeviceTotalMem_v2"},
        {&d->device_attribute, "cuDeviceGetAttribute"},
        {&d->context_retain, "cuDevicePrimaryCtxRetain"},
        {&d->context_release, "cuDevicePrimaryCtxRelease_v2"},
        {&d->context_set, "cuCtxSetCurrent"},
        {&d->memory_info, "cuMemGetInfo_v2"},
        {&d->granularity, "cuMemGetAllocationGranularity"},
        {&d->memory_create, "cuMemCreate"},
        {&d->memory_release, "cuMemRelease"},
        {&d->memory_export, "cuMemExportToShareableHandle"},
        {&d->memory_import, "cuMemImportFromShareableHandle"},
        {&d->address_reserve, "cuMemAddressReserve"},
        {&d->address_free, "cuMemAddressFree"},
        {&d->memory_map, "cuMemMap"},
        {&d->memory_unmap, "cuMemUnmap"},
        {&d->access_set, "cuMemSetAccess"},
        {&d->copy_to_device, "cuMemcpyHtoD_v2"},
        {&d->copy_to_host, "cuMemcpyDtoH_v2"},
        {&d->module_load, "cuModuleLoadData"},
        {&d->module_unload, "cuModuleUnload"},
        {&d->module_function, "cuModuleGetFunction"},
        {&d->function_set, "cuFuncSetAttribute"},
        {&d->launch, "cuLaunchKernelEx"},
        {&d->stream_create, "cuStreamCreate"},
        {&d->stream_destroy, "cuStreamDestroy_v2"},
        {&d->stream_wait, "cuStreamSynchronize"},
        {&d->send, "cuMemcpyHtoDAsync_v2"},
        {&d->fetch, "cuMemcpyDtoHAsync_v2"},
        {&d->move, "cuMemcpyDtoDAsync_v2"},
        {&d->fill, "cuMemsetD8Async"},
        {&d->host_allocate, "cuMemHostAlloc"},
        {&d->host_free, "cuMemFreeHost"},
        {&d->host_register, "cuMemHostRegister_v2"},
        {&d->host_unregister, "cuMemHostUnregister"},
        {&d->record_begin, "cuStreamBeginCapture_v2"},
        {&d->record_end, "cuStreamEndCapture"},
        {&d->graph_instantiate, "cuGraphInstantiateWithFlags"},
        {&d->graph_launch, "cuGraphLaunch"},
        {&d->graph_destroy, "cuGraphDestroy"},
        {&d->executable_destroy, "cuGraphExecDestroy"},
        {&d->event_create, "cuEventCreate"},
        {&d->event_destroy, "cuEventDestroy_v2"},
        {&d->event_record, "cuEventRecord"},
        {&d->event_wait, "cuEventSynchronize"},
        {&d->event_elapsed, "cuEventElapsedTime"},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        int r = find(d, wanted[i].function, wanted[i].name, err);
        if (r < 0)
            return r;
    }
    return 0;
}

const char *gpu_result_text(const struct gpu_driver *d, int result)
{
    const char *text = NULL;
    return d->error_string(result, &text) == CUDA_SUCCESS && text != NULL ? text : "unknown error";
}

int gpu_code_of(int result)
{
    switch (result) {
    case CUDA_ERROR_OUT_OF_MEMORY:
        return -ENOMEM;
    case CUDA_ERROR_ILLEGAL_ADDRESS:
    case CUDA_ERROR_NOT_PERMITTED:
        return -EACCES;
    case CUDA_ERROR_INVALID_VALUE:
    case CUDA_ERROR_INVALID_HANDLE:
    case CUDA_ERROR_OPERATING_SYSTEM:
        return -EINVAL;
    case CUDA_ERROR_INVALID_IMAGE:
    case CUDA_ERROR_NO_BINARY_FOR_GPU:
    case CUDA_ERROR_UNSUPPORTED_PTX_VERSION:
        return -ENOEXEC;
    default:
        return -EIO;
    }
}

int gpu_check_result(const struct gpu_driver *d, int result, const char *what, struct error *err)
{
    if (result == CUDA_SUCCESS)
        return 0;
    return error_set(err, gpu_code_of(result), "%s: %s (%d)", what, gpu_result_text(d, result),
                     result);
}

static int start(struct gpu_driver *d, struct error *err)
{
    int r = d->init(0);
    if (r == CUDA_SUCCESS)
        r = d->driver_version(&d->version);
    if (r == CUDA_SUCCESS)
        r = d->device_count(&d->count);
    if (r == CUDA_ERROR_NO_DEVICE || (r == CUDA_SUCCESS && d->count <= 0))
        return error_set(err, -ENODEV,
                         "the NVIDIA driver is installed and finds no GPU: in a container, pass "
                         "one through (docker run --gpus)");
    if (r != CUDA_SUCCESS)
        return error_set(err, -EIO,
                         "the NVIDIA driver does not start: %s (%d); see what "
                         "nvidia-smi says",
                         gpu_result_text(d, r), r);
    if (d->version < GPU_DRIVER_VERSION_MIN)
        return error_set(err, -ENOTSUP,
                         "the NVIDIA driver is for CUDA %d.%d, which is too old: install one for "
                         "CUDA %d.%d or newer",
                         d->version / 1000, d->version % 1000 / 10, GPU_DRIVER_VERSION_MIN / 1000,
                         GPU_DRIVER_VERSION_MIN % 1000 / 10);
    return 0;
}

int gpu_driver_open(struct gpu_driver **ret, const char *library, struct error *err)
{
    *ret = NULL;
    struct gpu_driver *d = calloc(1, sizeof *d);
    if (d == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    d->library = dlopen(library != NULL ? library : GPU_DRIVER_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    int r = d->library == NULL ? error_set(err, -ENOENT, "no NVIDIA driver: %s", dlerror())
                               : find_all(d, err);
    if (r == 0)
        r = start(d, err);
    if (r < 0) {
        gpu_driver_close(d);
        return r;
    }
    *ret = d;
    return 0;
}

void gpu_driver_close(struct gpu_driver *d)
{
    if (d == NULL)
        return;
    if (d->library != NULL)
        dlclose(d->library);
    free(d);
}

uint32_t gpu_driver_version(const struct gpu_driver *d)
{
    return (uint32_t)d->version;
}

uint32_t gpu_count(const struct gpu_driver *d)
{
    return (uint32_t)d->count;
}

/* What a driver does not know of a device is 0. */
static uint32_t attribute(const struct gpu_driver *d, int which, int device)
{
    int value = 0;
    int r = d->device_attribute(&value, which, device);
    return r == CUDA_SUCCESS && value > 0 ? (uint32_t)value : 0;
}

/* Two transfers in a clock (CUDA C++ Best Practices Guide, theoretical bandwidth). */
static double peak_bytes_s(uint32_t clock_khz, uint32_t bus_bits)
{
    return 2.0 * clock_khz * 1e3 * bus_bits / 8;
}

int gpu_look(const struct gpu_driver *d, uint32_t index, struct gpu *ret, struct error *err)
{
    int device;
    size_t bytes = 0;
    *ret = (struct gpu){0};
    int r = d->device_get(&device, (int)index);
    if (r == CUDA_SUCCESS)
        r = d->device_name(ret->name, sizeof ret->name, device);
    if (r == CUDA_SUCCESS)
        r = d->device_memory(&bytes, device);
    if (r != CUDA_SUCCESS)
        return error_set(err, -EIO, "GPU %u does not answer: %s (%d); see what nvidia-smi says",
                         index, gpu_result_text(d, r), r);
    ret->name[sizeof ret->name - 1] = '\0';
    ret->memory_bytes = bytes;
    ret->capability = 10 * attribute(d, ATTRIBUTE_CAPABILITY_MAJOR, device) +
                      attribute(d, ATTRIBUTE_CAPABILITY_MINOR, device);
    ret->multiprocessors = attribute(d, ATTRIBUTE_MULTIPROCESSORS, device);
    ret->memory_bytes_s = peak_bytes_s(attribute(d, ATTRIBUTE_MEMORY_CLOCK_KHZ, device),
                                       attribute(d, ATTRIBUTE_MEMORY_BUS_BITS, device));
    ret->compute_mode = attribute(d, ATTRIBUTE_COMPUTE_MODE, device);
    ret->has_virtual_memory = attribute(d, ATTRIBUTE_VIRTUAL_MEMORY, device) > 0;
    ret->has_fd_handles = attribute(d, ATTRIBUTE_FD_HANDLES, device) > 0;
    return 0;
}

int gpu_check(const struct gpu *g, struct error *err)
{
    if (g->capability < GPU_CAPABILITY_MIN)
        return error_set(err, -ENOTSUP, "its compute capability is %u.%u, and %u.%u is needed",
                         g->capability / 10, g->capability % 10, GPU_CAPABILITY_MIN / 10,
                         GPU_CAPABILITY_MIN % 10);
    if (g->compute_mode == GPU_MODE_PROHIBITED)
        return error_set(err, -EACCES,
                         "it is closed to computation: nvidia-smi -c DEFAULT opens it");
    if (g->compute_mode == GPU_MODE_EXCLUSIVE_PROCESS)
        return error_set(err, -EACCES,
                         "it is for one process alone, and each function is one: nvidia-smi -c "
                         "DEFAULT opens it");
    if (!g->has_virtual_memory || !g->has_fd_handles)
        return error_set(err, -ENOTSUP,
                         "its memory cannot be mapped read-only into other processes "
                         "(cuMemCreate with file descriptors)%s",
                         g->has_virtual_memory ? "" : ": a virtual GPU may have this switched off");
    return 0;
}
