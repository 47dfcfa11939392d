/*
 * What gpu/ calls of the driver library: the functions and numbers of CUDA's driver API, which
 * never change, so that nothing of CUDA is needed to build.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* CUresult */
enum {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_INVALID_VALUE = 1,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NO_DEVICE = 100,
    CUDA_ERROR_INVALID_IMAGE = 200,
    CUDA_ERROR_NO_BINARY_FOR_GPU = 209,
    CUDA_ERROR_UNSUPPORTED_PTX_VERSION = 222,
    CUDA_ERROR_OPERATING_SYSTEM = 304,
    CUDA_ERROR_INVALID_HANDLE = 400,
    CUDA_ERROR_ILLEGAL_ADDRESS = 700,
    CUDA_ERROR_NOT_PERMITTED = 800,
};

/* CUmemLocation, CUmemAllocationProp and CUmemAccessDesc */
struct cuda_location {
    int type; /* CUDA_LOCATION_DEVICE */
    int id;
};

struct cuda_allocation {
    int type;         /* CUDA_ALLOCATION_PINNED */
    int handle_types; /* CUDA_HANDLE_FD */
    struct cuda_location location;
    void *security_attributes; /* of another system */
    struct {
        uint8_t compression, rdma;
        uint16_t usage;
        uint8_t reserved[4];
    } flags;
};

struct cuda_access {
    struct cuda_location location;
    int flags; /* CUDA_ACCESS_ */
};

enum { CUDA_LOCATION_DEVICE = 1, CUDA_ALLOCATION_PINNED = 1, CUDA_HANDLE_FD = 1 };
enum { CUDA_ACCESS_READ = 1, CUDA_ACCESS_READ_WRITE = 3 };
enum { CUDA_GRANULARITY_RECOMMENDED = 1 };
enum { CUDA_STREAM_NON_BLOCKING = 1 };
enum { CUDA_EVENT_DEFAULT = 0 };
enum { CUDA_HOST_READ_ONLY = 8 };            /* CU_MEMHOSTREGISTER_READ_ONLY */
enum { CUDA_CAPTURE_THREAD = 1 };            /* CU_STREAM_CAPTURE_MODE_THREAD_LOCAL */
enum { CUDA_FUNCTION_SHARED_BYTES_MAX = 8 }; /* CUfunction_attribute, dynamic shared memory */

/* CUlaunchConfig, and CUlaunchAttribute with the one kind that is asked for. */
struct cuda_launch_attribute {
    int kind; /* CUDA_LAUNCH_OVERLAP */
    int padding;
    union {
        char bytes[64];
        int overlaps;
    } value;
};

struct cuda_launch {
    unsigned grid[3], block[3];
    unsigned shared_bytes;
    void *stream;
    struct cuda_launch_attribute *attributes;
    unsigned attribute_count;
};

/* CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION: a kernel may begin before the one before
 * it has ended, and waits for it itself. */
enum { CUDA_LAUNCH_OVERLAP = 6 };

struct gpu_driver {
    void *library;
    int version, count;
    int (*init)(unsigned flags);
    int (*error_string)(int result, const char **ret);
    int (*driver_version)(int *ret);
    int (*device_count)(int *ret);
    int (*device_get)(int *ret, int index);
    int (*device_name)(char *ret, int bytes, int device);
    int (*device_memory)(size_t *ret, int device);
    int (*device_attribute)(int *ret, int attribute, int device);
    int (*context_retain)(void **ret, int device);
    int (*context_release)(int device);
    int (*context_set)(void *context);
    int (*memory_info)(size_t *ret_free, size_t *ret_total);
    int (*granularity)(size_t *ret, const struct cuda_allocation *a, int which);
    int (*memory_create)(uint64_t *ret, size_t bytes, const struct cuda_allocation *a,
                         uint64_t flags);
    int (*memory_release)(uint64_t handle);
    int (*memory_export)(void *ret_fd, uint64_t handle, int type, uint64_t flags);
    int (*memory_import)(uint64_t *ret, void *fd, int type);
    int (*address_reserve)(uint64_t *ret, size_t bytes, size_t alignment, uint64_t at,
                           uint64_t flags);
    int (*address_free)(uint64_t address, size_t bytes);
    int (*memory_map)(uint64_t address, size_t bytes, size_t offset, uint64_t handle,
                      uint64_t flags);
    int (*memory_unmap)(uint64_t address, size_t bytes);
    int (*access_set)(uint64_t address, size_t bytes, const struct cuda_access *a, size_t count);
    int (*copy_to_device)(uint64_t to, const void *from, size_t bytes);
    int (*copy_to_host)(void *to, uint64_t from, size_t bytes);
    int (*module_load)(void **ret, const void *image);
    int (*module_unload)(void *module);
    int (*module_function)(void **ret, void *module, const char *name);
    int (*function_set)(void *function, int attribute, int value);
    int (*launch)(const struct cuda_launch *launch, void *function, void **parameters,
                  void **extra);
    int (*stream_create)(void **ret, unsigned flags);
    int (*stream_destroy)(void *stream);
    int (*stream_wait)(void *stream);
    int (*send)(uint64_t to, const void *from, size_t bytes, void *stream);
    int (*fetch)(void *to, uint64_t from, size_t bytes, void *stream);
    int (*move)(uint64_t to, uint64_t from, size_t bytes, void *stream);
    int (*fill)(uint64_t to, unsigned char byte, size_t bytes, void *stream);
    int (*host_allocate)(void **ret, size_t bytes, unsigned flags);
    int (*host_free)(void *memory);
    int (*host_register)(void *memory, size_t bytes, unsigned flags);
    int (*host_unregister)(void *memory);
    int (*record_begin)(void *stream, int mode);
    int (*record_end)(void *stream, void **ret_graph);
    int (*graph_instantiate)(void **ret, void *graph, unsigned long long flags);
    int (*graph_launch)(void *executable, void *stream);
    int (*graph_destroy)(void *graph);
    int (*executable_destroy)(void *executable);
    int (*event_create)(void **ret, unsigned flags);
    int (*event_destroy)(void *event);
    int (*event_record)(void *event, void *stream);
    int (*event_wait)(void *event);
    int (*event_elapsed)(float *ret_ms, void *begin, void *end);
};

/* What the driver says of a result. */
const char *gpu_result_text(const struct gpu_driver *d, int result);
