/* `sllora sim --log FILE --picture OUT`: a recorded run, drawn. */
#include "cli/sim.h"
#include "sim/picture.h"

int sim_picture(const struct sim_arguments *a, const char *path, struct error *err)
{
    struct picture_options o;
    picture_options_default(&o);
    o.from_s = a->from_s;
    o.to_s = a->to_s;
    if (a->functions > 0)
        o.functions_max =
            a->functions < PICTURE_FUNCTIONS_MAX ? a->functions : PICTURE_FUNCTIONS_MAX;
    return picture_write(path, a->picture, &o, err);
}
