/*
 * A driver library with the functions of NVIDIA's that the system asks for, without any GPU. The
 * environment says what it is like: FAKE_CUDA="version=13000 init=0 devices=1 dead=-1 major=9
 * minor=0 mode=0 vmm=1 fds=1", each with these values where it is left out.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    INVALID_DEVICE = 101,
};

static int setting(const char *name, int otherwise)
{
    const char *all = getenv("FAKE_CUDA");
    char key[32];
    snprintf(key, sizeof key, " %s=", name);
    char padded[256];
    snprintf(padded, sizeof padded, " %s", all != NULL ? all : "");
    const char *at = strstr(padded, key);
    return at != NULL ? (int)strtol(at + strlen(key), NULL, 10) : otherwise;
}

int cuInit(unsigned flags)
{
    return flags == 0 ? setting("init", SUCCESS) : INVALID_VALUE;
}

int cuGetErrorString(int result, const char **ret)
{
    *ret = result == INVALID_DEVICE ? "invalid device ordinal" : "system not yet initialized";
    return result == 9999 ? INVALID_VALUE : SUCCESS;
}

int cuDriverGetVersion(int *ret)
{
    *ret = setting("version", 13000);
    return SUCCESS;
}

int cuDeviceGetCount(int *ret)
{
    *ret = setting("devices", 1);
    return SUCCESS;
}

int cuDeviceGet(int *ret, int index)
{
    *ret = 100 + index; /* a handle is not an index */
    return index == setting("dead", -1) ? INVALID_DEVICE : SUCCESS;
}

static int is_device(int device)
{
    return device >= 100 && device < 100 + setting("devices", 1);
}

int cuDeviceGetName(char *ret, int bytes, int device)
{
    if (!is_device(device))
        return INVALID_DEVICE;
    snprintf(ret, (size_t)bytes, "Fake GPU %d", device - 100);
    return SUCCESS;
}

int cuDeviceTotalMem_v2(size_t *ret, int device)
{
    *ret = (size_t)150 << 30;
    return is_device(device) ? SUCCESS : INVALID_DEVICE;
}

int cuDeviceGetAttribute(int *ret, int attribute, int device)
{
    const struct {
        int attribute, value;
    } known[] = {
        {16, 132},
        {20, setting("mode", 0)},
        {36, 3201000},
        {37, setting("bus", 6144)},
        {75, setting("major", 9)},
        {76, setting("minor", 0)},
        {102, setting("vmm", 1)},
        {103, setting("fds", 1)},
    };
    if (!is_device(device))
        return INVALID_DEVICE;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (known[i].attribute == attribute) {
            *ret = known[i].value;
            return SUCCESS;
        }
    return INVALID_VALUE;
}
