/* A scripted engine behind engine.h for tests of the screens and the controller. Opened by
 * engine_open when engine_params.fake_script is set; the text of the script is described in
 * fake.c. Threads and errors as in engine.h. */
#ifndef ENGINE_FAKE_H
#define ENGINE_FAKE_H

#include "engine/engine.h"

enum status fake_open(const struct engine_params *p, struct engine **ret, struct err *e);

#endif
