/* config.json: no bytes crash the reader, and what it accepts passes the check of images. */
#include "model/config.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct model_config c;
    struct error err = {0};
    if (model_config_parse((const char *)data, size, NULL, 0, &c, &err) == 0 &&
        model_config_check(&c, &err) < 0)
        abort();
    return 0;
}
