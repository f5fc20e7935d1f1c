/* What the files that draw the dashboard share; seen by ui/view_dash.c, view_map.c and
 * view_answer.c only. */
#ifndef UI_VIEW_DASH_H
#define UI_VIEW_DASH_H

#include "ui/dash.h"
#include "ui/pen.h"
#include "ui/text.h"
#include "ui/theme.h"
#include "ui/view.h"

/* Remembers where the pointer finds something. */
void view_dash_hit(const struct ui_model *m, struct dash_hit hit);

/* "now", "12 s ago", "--" */
const char *view_dash_age(char *buf, size_t size, double now_s, double at_s);

void view_map_draw(const struct ui_model *m, struct pen *p);
void view_answer_draw(const struct ui_model *m, struct pen *p);

#endif
