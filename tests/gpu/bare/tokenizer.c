/* The tokenizer on a machine without PCRE2: there is none, tests speak in token ids. */
#include "kernels/base.h"
#include "runtime/sl.h"

enum sl_status sl_tokenizer_open(const char *path, sl_tokenizer **out, struct sl_error *error)
{
    *out = NULL;
    return sl_error_set(error, SL_ERR_UNSUPPORTED, 0, "%s: this build has no tokenizer", path);
}

void sl_tokenizer_close(sl_tokenizer *tokenizer)
{
    SL_ASSERT(!tokenizer);
}
