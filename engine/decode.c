#include "engine/decode.h"

enum status decode_step(struct forward *f, struct kv_line *line, int32_t id, const float **ret,
                        struct err *e)
{
    TRY(forward_run(f, line, &id, 1, FORWARD_LAST, NULL, NULL, e));
    return forward_head(f, 0, 1, ret, e);
}
