/* The committed table and the search in it; see the header. */
#include "kernels/cuda/linear_choice.h"

/* Lines come from a run of sluice-bench-gpu alone, with the file of bench/results beside them. No
 * GPU has measured them yet. */
static const struct linear_choice measured[] = {
    {0, 0, 0, 0, 0},
};

const struct linear_choice *linear_choices(void)
{
    return measured;
}

bool linear_choice_has(const struct linear_choice *table, int32_t arch, int32_t rows,
                       int32_t columns, int32_t tokens)
{
    for (const struct linear_choice *line = table; line->arch != 0; line++)
        if (line->arch == arch && line->rows == rows && line->columns == columns &&
            line->tokens_from <= tokens && tokens <= line->tokens_to)
            return true;
    return false;
}

bool linear_choice_has_arch(const struct linear_choice *table, int32_t arch)
{
    for (const struct linear_choice *line = table; line->arch != 0; line++)
        if (line->arch == arch) return true;
    return false;
}
